"""Convolutional models: the papers' parameter counts, loops of blocks, blocks of zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import also_slowly

from ist_jax.core.trees import tree_size
from ist_jax.models import STATS, VGG, PreActResNet, ResNet
from ist_jax.models.linen import linen
from ist_jax.models.residual import BLOCKS, Block
from ist_jax.models.vgg import VGG12
from ist_jax.training import export

SMALL, LARGE = (1, 32, 32, 3), (1, 224, 224, 3)


def count(model, shape=SMALL):
    return tree_size(jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))["params"])


@pytest.mark.parametrize(
    "model,shape,parameters",
    [
        (
            PreActResNet((3, 4, 23, 3), 10),
            SMALL,
            41_350_730,
        ),  # ResNet101 of the ResIST release, CIFAR-10
        (PreActResNet((3, 4, 23, 3), 100), SMALL, 41_396_900),  # the same, CIFAR-100
        (ResNet((2, 2, 2, 2), 10), SMALL, 11_173_962),  # ResNet18 for small images
        (
            ResNet((3, 4, 6, 3), 1000, block="post_bottleneck", stem="large"),
            LARGE,
            25_557_032,
        ),  # He et al.'s ResNet50
        (
            ResNet((3, 4, 23, 3), 1000, block="post_bottleneck", stem="large"),
            LARGE,
            44_549_160,
        ),  # and ResNet101
    ],
)
def test_parameter_counts(model, shape, parameters):
    assert count(model, shape) == parameters


@pytest.mark.parametrize("blocks,millions", [(36, 56.7), (50, 73.2)])
def test_the_deeper_networks_of_the_resist_paper(blocks, millions):
    assert count(PreActResNet((3, 4, blocks, 3), 10)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_plain_networks_layers():
    shapes = jax.eval_shape(VGG(VGG12, (512, 512), 10).init, jax.random.key(0), jnp.zeros(SMALL))[
        "params"
    ]
    assert sorted(shapes) == sorted(
        [f"conv_{i}" for i in range(9)]
        + [f"conv_norm_{i}" for i in range(9)]
        + ["hidden_0", "hidden_1", "norm_0", "norm_1", "output"]
    )
    odd = VGG((2, 0, 3), (4,), 5)
    assert odd.init_with_output(jax.random.key(0), jnp.ones((2, 5, 7, 1)))[0].shape == (2, 5)


def as_unrolled(tree):
    """Parameters or statistics of a looped network, as its unrolled twin has them."""
    unrolled = {}
    for name, value in tree.items():
        if not name.endswith("_rest"):
            unrolled[name] = value
            continue
        blocks = zip(*jax.tree.leaves(value))
        for i, leaves in enumerate(blocks, 1):
            unrolled[f"{name.removesuffix('_rest')}_block_{i}"] = jax.tree.unflatten(
                jax.tree.structure(value), leaves
            )
    return unrolled


@pytest.mark.parametrize("kind", ["preact", "post"])
def test_a_scale_multiplies_the_branch_and_not_the_shortcut(kind):
    """x + scale * f(x), where f comes from the block without a scale."""
    x = (
        jnp.abs(jax.random.normal(jax.random.key(1), (2, 4, 4, 3))) + 9.0
    )  # large, so that post-activation's relu does nothing
    block, scaled = Block(kind, 3), Block(kind, 3, scale=0.25)
    params = block.init(jax.random.key(0), x)
    branch = block.apply(params, x) - x
    assert np.abs(branch).max() > 0.1 and (block.apply(params, x) > 0).all()
    np.testing.assert_allclose(scaled.apply(params, x), x + 0.25 * branch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unrolled", [False, True])
def test_only_further_blocks_are_scaled(unrolled):
    """A scale of 0 removes the further blocks of stage 2 and changes nothing else."""
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    model = PreActResNet((1, 3), 5, width=4, unrolled=unrolled)
    params = model.init(jax.random.key(0), x)["params"]
    further = ("stage_2_rest",) if not unrolled else ("stage_2_block_1", "stage_2_block_2")
    first = {name: value for name, value in params.items() if name not in further}
    alone = PreActResNet((1, 1), 5, width=4, unrolled=unrolled).apply({"params": first}, x)
    scaled = model.clone(residual_scales=(1.0, 0.0)).apply({"params": params}, x)
    np.testing.assert_allclose(scaled, alone, rtol=1e-4, atol=1e-5)
    assert np.abs(model.apply({"params": params}, x) - alone).max() > 1e-2


@pytest.mark.parametrize("norm", also_slowly(["group"], ["batch", "group"]))
def test_a_loop_over_blocks_computes_what_unrolled_blocks_do(norm):
    looped = PreActResNet((1, 4), 3, width=4, norm=norm, residual_scales=(1.0, 0.5))
    unrolled, x = looped.clone(unrolled=True), jax.random.normal(jax.random.key(1), (4, 6, 6, 2))
    params = looped.init(jax.random.key(0), x)["params"]
    kernels = params["stage_2_rest"]["conv1"]["kernel"]
    assert kernels.shape == (3, 3, 3, 8, 8) and len(np.unique(kernels)) == kernels.size, (
        "every block has its own values"
    )

    def run(model, params):
        loss = lambda params: (model.apply({"params": params}, x) ** 2).sum()
        return model.apply({"params": params}, x, mutable=[STATS]), jax.grad(loss)(params)

    (logits, stats), gradient = jax.jit(lambda p: run(looped, p))(params)
    (expected, expected_stats), expected_gradient = jax.jit(lambda p: run(unrolled, p))(
        as_unrolled(params)
    )

    def close(a, b):
        return np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)

    close(logits, expected)
    jax.tree.map(close, as_unrolled(gradient), expected_gradient)
    jax.tree.map(close, as_unrolled(stats.get(STATS, {})), expected_stats.get(STATS, {}))
    if norm == "batch":
        measured = looped.apply({"params": params, **stats}, x)
        close(measured, logits)
        close(
            looped.apply({"params": params, **stats}, x[:1]), logits[:1]
        )  # a prediction is of one example


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_zeros_is_the_identity_and_stays_so_in_training_under_pre_activation(kind):
    block, x = (
        Block(kind, 4),
        jax.nn.relu(
            jax.random.normal(jax.random.key(0), (2, 4, 4, 16 if "bottleneck" in kind else 4))
        ),
    )
    zeros = jax.tree.map(jnp.zeros_like, block.init(jax.random.key(0), x)["params"])
    np.testing.assert_array_equal(block.apply({"params": zeros}, x), x)
    target = jax.random.normal(jax.random.key(1), x.shape)
    gradient = jax.grad(lambda p: (block.apply({"params": p}, x) * target).sum())(zeros)
    moves = any(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))
    assert moves == kind.startswith("post"), "relu after the sum trains the last norm's bias"


def test_a_program_does_not_grow_with_depth():
    lengths = []
    for depth in (3, 30):
        model, x = PreActResNet((1, depth), 3, width=4), jnp.ones((2, 4, 4, 1))
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        gradient = jax.jit(
            jax.grad(
                lambda params, model=model, x=x: (model.apply({"params": params}, x) ** 2).sum()
            )
        )
        lengths.append(gradient.lower(params).as_text().count("\n"))
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize(
    "model",
    [
        PreActResNet((1, 2), 3, width=4, residual_scales=(1.0, 0.5)),
        ResNet((2,), 3, unrolled=True, inner=(2,)),
        VGG((4, 0), (5,), 3, dtype=jnp.bfloat16),
    ],
    ids=["preact", "post", "vgg"],
)
def test_models_can_be_exported(tmp_path, model):
    export.write(tmp_path / "out", linen(model), {"a": np.ones(1)}, None, {})
    assert export.read(tmp_path / "out").model == model


def test_an_input_that_is_no_image_raises_an_error():
    with pytest.raises(ValueError, match=r"takes images, .* not shape \(2, 64\)"):
        PreActResNet((1, 1), 3, width=4).init(jax.random.key(0), jnp.ones((2, 64)))


def test_bfloat16_is_used_for_computing_and_float32_for_parameters():
    model, x = PreActResNet((1, 2), 3, width=4, dtype=jnp.bfloat16), jnp.ones((2, 4, 4, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    text = jax.jit(model.apply).lower({"params": params}, x).as_text()
    assert "convolution" in text and "bf16" in text
    assert jax.eval_shape(model.apply, {"params": params}, x).dtype == jnp.float32
