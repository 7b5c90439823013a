"""The configuration of the model."""

import dataclasses
from typing import Annotated, Literal

from ist_jax.cli.config.types import Range


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The model."""

    name: Literal["mlp", "gcn", "sage", "gat", "resnet", "vgg", "transformer", "custom"] = "mlp"
    """mlp; for images resnet or vgg; for graphs gcn, sage (GraphSAGE) or gat; for text transformer;
    custom: built by get_decomposition() of the config file, which may use the other fields of the
    model."""
    hidden: tuple[int, ...] = (1024, 1024)
    """Widths of the full model's hidden layers; vgg: of the classifier; gat: of one head."""
    heads: Annotated[int, Range(1, 2**16)] = 4
    """gat, transformer: attention heads of every layer."""
    norm: Literal["batch", "layer", "none", "group", "matrix", "rms"] = "batch"
    """Normalisation of hidden layers. mlp: batch (also of the logits), layer, none; resnet: batch,
    group; vgg: batch; graphs: none, layer, matrix (over all nodes at once); transformer: rms,
    layer."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Graphs: probability that an input of a layer is set to zero in training; transformer: that a
    feature of the embedding or of a branch is."""
    input_dropout: bool = True
    """Graphs: apply dropout to the input features as well."""
    split_input: bool = False
    """Graphs: partition the input features as well (d0 in the GIST paper)."""
    split_output: bool = True
    """Graphs: partition the last hidden layer, which the output layer reads."""
    eval_norm: Literal["train", "batch"] = "train"
    """BatchNorm statistics in evaluation. train: measured on training data; batch: those of each
    batch, as in the authors' releases."""
    scaling: Literal["auto", "none", "keep", "sqrt"] = "auto"
    """Scale of sums over partitioned units in ist's full model (mlp, gcn, sage), or of partitioned
    residual branches (resnet, transformer). keep: the share of units that a subnetwork has; sqrt:
    its square root; auto: keep for decomposition=blocks and transformer, none otherwise, as in the
    papers."""
    bias: bool = False
    """Give dense layers a bias."""
    activation: Literal["relu", "elu", "gelu", "tanh", "silu", "sigmoid", "softplus", "swiglu"] = (
        "relu"
    )
    """Activation function. transformer: relu, gelu or swiglu, which has a gate."""
    stage_sizes: tuple[int, ...] = (3, 4, 23, 3)
    """resnet: blocks of every stage."""
    width: Annotated[int, Range(1, 2**20)] = 64
    """resnet: channels of the first stage; every later stage has twice as many as the one before.
    transformer: features of a token."""
    block: Literal["preact", "post", "preact_bottleneck", "post_bottleneck"] = "preact"
    """resnet: kind of block. preact: norm and activation before each convolution; post: after it,
    with the last activation after the sum."""
    stem: Literal["small", "large"] = "small"
    """resnet: first layer. small: 3 x 3; large: 7 x 7 and pooling, as for ImageNet."""
    channels: tuple[int, ...] = (64, 64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512)
    """vgg: channels of the convolutions. 0 stands for pooling by 2."""
    layers: Annotated[int, Range(1, 2**16)] = 4
    """transformer: blocks of attention and MLP."""
    kv_heads: Annotated[int, Range(0, 2**16)] = 0
    """transformer: heads of keys and values, each shared by heads / kv_heads query heads. 0: as
    many as heads."""
    mlp_width: Annotated[int, Range(0, 2**20)] = 0
    """transformer: neurons of every MLP, or of every expert. 0: 4 x width."""
    positions: Literal["rotary", "learned"] = "rotary"
    """transformer: how positions are encoded. rotary: RoPE."""
    tied: bool = True
    """transformer: use the embedding as the output kernel."""
    experts: Annotated[int, Range(0, 2**16)] = 0
    """transformer: number of experts that replace every MLP. 0: none."""
    experts_per_token: Annotated[int, Range(1, 2**16)] = 2
    """transformer: experts that a token is sent to."""
    balance: Annotated[float, Range(0, 1e9)] = 0.01
    """transformer: factor of the load-balancing loss of experts."""
    scan: bool = True
    """transformer: run layers in a loop, which compiles faster. Unit j of all layers is then one
    unit."""
    remat: Literal["none", "dots", "full"] = "none"
    """transformer: activations that the backward pass recomputes to save memory. dots: all but
    products with parameters; full: all of a layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Data type of computation. Parameters are float32."""
