"""What the conformance suites run over: a new decomposition or method joins with one line."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from custom_models import CLASSES, EXAMPLE, FEATURES, chain, custom, recurrent
from twins import nnx_custom

from ist_jax import data_parallel, ensemble, ist, replicated, sparse_loco, streaming_diloco
from ist_jax.core.placement import Placement, looped, sharded, subnet_mesh, vmapped
from ist_jax.data import Dataset, GraphOptions, Raw, RawGraph, make_dataset, make_graph_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import (
    Decomposition,
    blocks,
    channels,
    filters,
    gat,
    gcn,
    mlp,
    sage,
    transformer,
)
from ist_jax.methods import Method
from ist_jax.models import GAT, GCN, MLP, VGG, GraphSAGE, PreActResNet, ResNet, Transformer
from ist_jax.tasks import Task, classification, node_classification


def _mlp(
    hidden: tuple[int, ...] = (16, 24), model: dict[str, Any] | None = None, **options: Any
) -> Any:
    network = MLP(hidden, CLASSES, **(model or {}))
    return lambda num_subnets, partition="balanced": mlp(
        network, EXAMPLE, num_subnets=num_subnets, partition=partition, **options
    )


def _graph(decompose_model: Any, model: nn.Module, **options: Any) -> Any:
    return lambda num_subnets, partition="balanced": decompose_model(
        model, FEATURES, num_subnets=num_subnets, partition=partition, **options
    )


def _images(make: Callable[..., Decomposition], model: nn.Module, **options: Any) -> Any:
    example = jax.ShapeDtypeStruct((1, 4, 4, 2), jnp.float32)
    return lambda num_subnets, partition="balanced": make(
        model, example, num_subnets=num_subnets, partition=partition, **options
    )


def _tokens(*split: str, **fields: Any) -> Any:
    fields = dict(layers=2, width=8, heads=10, kv_heads=5, head_dim=2, mlp_width=6) | fields
    example = jax.ShapeDtypeStruct((1, 3), jnp.int32)
    return lambda num_subnets, partition="balanced": transformer(
        Transformer(CLASSES, 3, **fields),
        example,
        num_subnets=num_subnets,
        partition=partition,
        split=split,
    )


# name -> (S, partition) -> Decomposition
DECOMPOSITIONS: dict[str, Callable[..., Decomposition]] = {
    "mlp": _mlp(),
    "mlp-uneven": _mlp((18, 13)),
    "mlp-one-layer-bias": _mlp((32,), {"bias": True}),
    "mlp-deep-layer-norm": _mlp((16, 8, 16), {"norm": "layer", "activation": "gelu"}),
    "mlp-no-norm-scaled": _mlp(
        (16, 16), {"norm": "none", "bias": True, "activation": "tanh"}, scaling="keep"
    ),
    "mlp-split-input": _mlp((16, 8), split_input=True),
    "mlp-affine-output": _mlp((16,), {"affine_output": True}),
    "custom": custom,
    "custom-scaled": functools.partial(custom, scale="keep"),
    "nnx": nnx_custom,
    "gcn-uneven": _graph(gcn, GCN((18, 8), CLASSES)),
    "gcn-layer-norm": _graph(gcn, GCN((8, 16), CLASSES, norm="layer")),
    "gcn-split-input": _graph(gcn, GCN((16,), CLASSES), split_input=True, split_output=False),
    "gcn-scaled": _graph(gcn, GCN((8, 8), CLASSES), split_output=False, scaling="keep"),
    "sage-split-input": _graph(
        sage, GraphSAGE((8, 6), CLASSES, norm="none"), split_input=True, scaling="sqrt"
    ),
    "sage-layer-norm": _graph(sage, GraphSAGE((16,), CLASSES)),
    "gat": _graph(gat, GAT((8, 8), CLASSES, heads=2)),
    "gat-split-input": _graph(
        gat, GAT((8,), CLASSES, heads=2, norm="layer"), split_input=True, split_output=False
    ),
    "recurrent": recurrent,
    "chain": chain,
    "blocks": _images(blocks, PreActResNet((1, 6), CLASSES, width=4), stages=(2,)),
    "filters": _images(filters, ResNet((2,), CLASSES, width=6)),
    "channels": _images(channels, VGG((6, 0, 4), (5,), CLASSES)),
    "transformer": _tokens("neurons", "heads"),
    "transformer-unrolled": _tokens("neurons", scan=False, activation="gelu", norm="layer"),
    "transformer-layers": _tokens("layers", layers=5, positions="learned"),
}
IMAGES = ("blocks", "filters", "channels")  # slow to compile
TASK: Task = classification()
SGD = optax.sgd(0.1, momentum=0.9)
BATCH = 8


def two_groups(num_subnets: int) -> Decomposition:  # the case most tests use
    return DECOMPOSITIONS["mlp"](num_subnets)


def _ist(
    make: Callable[[int], Decomposition], tx: optax.GradientTransformation = SGD, **options: Any
) -> Callable[..., Method]:
    def build(
        num_subnets: int, placement: Placement | None = None, tx: optax.GradientTransformation = tx
    ) -> Method:
        return ist(make(num_subnets), TASK, tx, batch_size=BATCH, placement=placement, **options)

    return build


def _ensemble(
    num_subnets: int, placement: Placement | None = None, tx: optax.GradientTransformation = SGD
) -> Method:
    return ensemble(two_groups(num_subnets), TASK, tx, batch_size=BATCH, placement=placement)


def _data_parallel(
    num_subnets: int, placement: Placement | None = None, tx: optax.GradientTransformation = SGD
) -> Method:
    return data_parallel(
        two_groups(num_subnets),
        TASK,
        tx,
        num_workers=num_subnets,
        batch_size=BATCH,
        placement=placement,
    )


def _streaming_diloco(
    num_subnets: int, placement: Placement | None = None, tx: optax.GradientTransformation = SGD
) -> Method:
    return streaming_diloco(
        two_groups(num_subnets),
        TASK,
        tx,
        num_workers=num_subnets,
        batch_size=BATCH,
        fragments=2,
        overlap=1,
        mixing=0.25,
        placement=placement,
    )


def _sparse_loco(
    num_subnets: int, placement: Placement | None = None, tx: optax.GradientTransformation = SGD
) -> Method:
    return sparse_loco(
        two_groups(num_subnets),
        TASK,
        tx,
        num_workers=num_subnets,
        batch_size=BATCH,
        density=0.25,
        chunk=64,
        placement=placement,
    )


def replicas(num_subnets: int) -> Decomposition:
    return replicated(two_groups(num_subnets), num_subnets)


NESTEROV = optax.sgd(0.7, 0.9, nesterov=True)
# name -> (S, placement, optimizer) -> Method
METHODS: dict[str, Callable[..., Method]] = {
    "ist": _ist(two_groups),
    "ist-custom": _ist(custom),
    "ist-chain": _ist(chain),
    "ist-recurrent": _ist(recurrent),
    "ist-nnx": _ist(nnx_custom),
    "ist-carry": _ist(two_groups, optax.adam(1e-2), opt_state="carry"),
    "ist-outer": _ist(two_groups, outer_tx=NESTEROV),
    "ist-copies": _ist(custom, optax.adam(1e-2), opt_state="carry", average_every=2),
    "local-sgd": _ist(replicas),
    "diloco": _ist(replicas, optax.adamw(1e-2), opt_state="local", outer_tx=NESTEROV),
    "sparse-loco": _sparse_loco,
    "streaming-diloco": _streaming_diloco,
    "ensemble": _ensemble,
    "data-parallel": _data_parallel,
}


def dataset(num_train: int = 100, dtype: Any = np.float32, shards: Any = shared) -> Dataset:
    """A learnable problem: classes are Gaussian blobs."""
    rng = np.random.default_rng(0)
    center_CxD = 2 * rng.normal(size=(CLASSES, FEATURES))

    def sample(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, CLASSES, count)
        return (center_CxD[y] + rng.normal(size=(count, FEATURES))).astype(dtype), y

    (x_train, y_train), (x_test, y_test) = sample(num_train + 20), sample(60)
    raw = Raw(x_train, y_train, x_test, y_test)
    return make_dataset(
        raw, "blobs", source="blobs", validation_fraction=20 / (num_train + 20), shards=shards
    )


def raw_graph(num_nodes: int = 40, **changes: Any) -> RawGraph:
    """A random graph. Nodes of one class are alike and mostly neighbours.

    One node has many neighbours, and some have none.
    """
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, num_nodes)
    x = (np.eye(CLASSES, FEATURES)[y] + 0.5 * rng.normal(size=(num_nodes, FEATURES))).astype(
        np.float32
    )
    pairs = rng.integers(0, num_nodes - 3, (2, 4 * num_nodes))
    likely = (y[pairs[0]] == y[pairs[1]]) | (rng.random(pairs.shape[1]) < 0.1)
    edges = np.concatenate(
        [pairs[:, likely], [np.zeros(num_nodes // 2, int), np.arange(num_nodes // 2)]], axis=1
    )
    split = np.arange(num_nodes) % 2 + (np.arange(num_nodes) % 4 == 3)
    return RawGraph(x, y, edges, split == 0, split == 1, split == 2)._replace(**changes)


def graph_dataset(raw: RawGraph | None = None, **options: Any) -> Dataset:
    return make_graph_dataset(
        raw or raw_graph(),
        "random",
        source="random",
        options=GraphOptions(**options),
        shards=shared,
    )


FIRST_PRODUCTS = {GCN: "symmetric", GraphSAGE: "mean", GAT: "none"}


def on_a_graph(placement: Placement) -> tuple[Any, ...]:
    """Phases, task and data of a run of two rounds: 4 sub-GCNs on one graph, with dropout."""
    task, split = (
        node_classification(),
        gcn(GCN((8, 8), CLASSES, norm="layer", dropout=0.5), FEATURES, num_subnets=4),
    )
    method = ist(split, task, optax.sgd(0.1), batch_size=1, placement=placement)
    return (
        [(method, 2 * 2 * 4, 2)],
        task,
        graph_dataset(first_product="symmetric", layers=3, sparse_below=2.0),
    )


def reads_tokens(decomposition: Decomposition) -> bool:
    return getattr(decomposition.example, "dtype", None) == jnp.int32


def targets(decomposition: Decomposition, count: int = 8) -> np.ndarray:
    """Labels of a batch of `count` examples; of tokens, one for each of them."""
    label_B = np.arange(count) % CLASSES
    if not reads_tokens(decomposition):
        return label_B
    return np.tile(label_B[:, None], decomposition.example.shape[1])


def inputs(decomposition: Decomposition, count: int = 8, seed: int = 1) -> Any:
    """Random inputs of a batch of `count` examples: an array, or a graph of so many nodes."""
    rng = np.random.default_rng(seed)
    if reads_tokens(decomposition):
        return rng.integers(0, CLASSES, (count, *decomposition.example.shape[1:]))
    kind = type(getattr(decomposition.full, "module", None))
    if kind not in FIRST_PRODUCTS:
        return rng.normal(size=(count, *decomposition.example.shape[1:])).astype(np.float32)
    split = np.eye(3, count, dtype=bool)
    edges = rng.integers(0, count, (2, 2 * count))
    y = np.zeros(count, int)
    raw = RawGraph(rng.normal(size=(count, FEATURES)).astype(np.float32), y, edges, *split)
    data = graph_dataset(raw, first_product=FIRST_PRODUCTS[kind])
    return data.arrays("test")["graph"]


ROOT = jax.random.key(3)


def also_slowly(fast: Iterable[Any], every: Iterable[Any]) -> list[Any]:
    """Parameters of a test: those of `every` that are not in `fast` are marked slow."""
    fast = list(fast)
    values = lambda case: case if isinstance(case, tuple) else (case,)
    every = list(every)
    assert all(case in every for case in fast), "a fast case is one of all"
    return [
        pytest.param(*values(case), marks=() if case in fast else pytest.mark.slow)
        for case in every
    ]


@contextlib.contextmanager
def as_users_compile() -> Iterator[None]:
    """Compiles with all optimisations inside; the suite compiles without most (conftest.py)."""
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", True)


def rounds(
    method: Method, count: int, steps: int = 3, data: Dataset | None = None, start: Any = None
) -> tuple[Any, Any]:
    """`count` rounds from the start; the state, and the losses of the last round."""
    data = data or dataset()
    state = method.fresh(ROOT, start)
    weight_S = np.ones(method.num_workers, np.float32)
    metrics = None
    for r in range(count):
        view = next(data.views(jax.random.key(5), method.num_workers, method.sharding, [range(1)]))
        key = jax.random.fold_in(ROOT, r)
        state, metrics = one_round(method, state, view, key, weight_S, steps, method.turn(r))
    return state, metrics


def one_round(
    method: Method,
    state: Any,
    view: Any,
    key: jax.Array,
    weight_S: Any,
    steps: int = 3,
    turn: int = 0,
) -> tuple[Any, Any]:
    """A round with its arguments where the training loop puts them: all share one program."""
    put = functools.partial(jax.device_put, device=method.sharding)
    weight_S = np.asarray(weight_S, np.float32)
    return method.round(state, view, put(key), put(weight_S), steps=steps, turn=turn)


def params_of(method: Method, state: Any) -> Any:
    """The full model's parameters on the host; one compiled program, not one for each operation."""
    return jax.device_get(jax.jit(method.params)(state))


def random_params(decomposition: Decomposition, seed: int = 0, dtype: Any = np.float32) -> Any:
    """Random parameters, no two entries equal (initial biases are all zero)."""
    shapes = jax.eval_shape(decomposition.init, jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(dtype), shapes)


def placements() -> dict[str, Callable[[], Placement]]:
    meshes = {f"sharded-{n}": lambda n=n: sharded(subnet_mesh(n)) for n in (1, 2, 4, 8)}
    return (
        {"looped": looped, "vmapped": vmapped}
        | meshes
        | {"sharded-2-looped": lambda: sharded(subnet_mesh(2), looped())}
    )
