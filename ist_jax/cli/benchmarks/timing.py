"""The programs that `ist-jax benchmark rounds` times: rounds, and what they are compared with."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from ist_jax.core.placement import AXIS, Placement, looped, make_placement, subnet_mesh, vmapped
from ist_jax.data import Dataset, Raw, make_dataset
from ist_jax.data.splits import shared
from ist_jax.decompositions import mlp, replicated
from ist_jax.exchange.transport import MeshTransport
from ist_jax.methods import Method, data_parallel, ist
from ist_jax.methods.base import State
from ist_jax.models import MLP
from ist_jax.tasks import classification

BATCH, EXAMPLES, RATE = 128, 4096, 0.01


class Network(NamedTuple):
    """The widths of a fully connected network, and S."""

    features: int
    hidden: tuple[int, ...]
    classes: int
    num_subnets: int

    @property
    def name(self) -> str:
        widths = "-".join(map(str, (self.features, *self.hidden, self.classes)))
        return f"{widths}, S={self.num_subnets}"

    @property
    def worker_widths(self) -> list[int]:
        """Features, a subnetwork's share of every hidden layer, classes."""
        return [self.features, *(width // self.num_subnets for width in self.hidden), self.classes]

    def decomposition(self) -> Any:
        example = jax.ShapeDtypeStruct((1, self.features), jnp.float32)
        return mlp(MLP(self.hidden, self.classes), example, num_subnets=self.num_subnets)


@functools.cache
def dataset(features: int, classes: int) -> Any:
    """A data set of random examples, whose values do not matter for timing."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(EXAMPLES + 64, features)).astype(np.float32)
    y = np.arange(EXAMPLES + 64) % classes
    raw = Raw(x, y, x[:64], y[:64])
    return make_dataset(
        raw, "random", source="random", validation_fraction=64 / (EXAMPLES + 64), shards=shared
    )


def _placement(name: str, num_subnets: int) -> Placement:
    """The placement `name`. 'auto' uses one device, even if the machine has more."""
    devices = min(num_subnets, len(jax.devices())) if name == "sharded" else 1
    return make_placement(name, num_subnets, devices)


def method_of(
    network: Network, name: str = "ist", place: str = "auto", batch: int = BATCH, **options: Any
) -> Method:
    """The method `name` on `network`: 'ist', 'data_parallel' or 'single'.

    'single' is the best form of data parallel on one device: one worker with the batch of all.
    """
    split, task, tx = network.decomposition(), classification(), optax.sgd(RATE)
    if name == "ist":
        placement = _placement(place, network.num_subnets)
        return ist(split, task, tx, batch_size=batch, placement=placement, **options)
    if name == "single":
        return data_parallel(
            replicated(split, 1), task, tx, num_workers=1, batch_size=batch, placement=looped()
        )
    placement = _placement(place, network.num_subnets)
    return data_parallel(
        replicated(split, network.num_subnets),
        task,
        tx,
        num_workers=network.num_subnets,
        batch_size=batch,
        placement=placement,
    )


def median_seconds(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The median of `repeats` times of every program, in seconds.

    Programs take turns, so that a slower machine slows all of them. A first turn is not counted.
    """
    for run in runs:
        jax.block_until_ready(run())
    seconds_of: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, seconds in zip(runs, seconds_of):
            began = time.perf_counter()
            jax.block_until_ready(run())
            seconds.append(time.perf_counter() - began)
    return list(map(statistics.median, seconds_of))


class Round(NamedTuple):
    """A compiled round.

    Attributes:
      run: runs the next round.
      steps: its local steps.
      compilation: seconds that its compilation took.
      method: of the round.
    """

    run: Callable[[], Any]
    steps: int
    compilation: float
    method: Method


def round_of(method: Method, data: Dataset, steps: int, states: list[State] | None = None) -> Round:
    """A round of `method` on `data`, compiled. A round of 0 steps is a synchronisation alone.

    Args:
      method: of the round.
      data: has the training examples.
      steps: local steps.
      states: a list of one state, which the round replaces. Rounds with the same list share the
        state. None: a fresh one.
    """
    drawn = range(max(steps, 1) * method.batch_size)
    view = next(data.views(jax.random.key(1), method.num_workers, method.sharding, [drawn]))
    key, weight_S = jax.device_put(
        (jax.random.key(2), jnp.ones(method.num_workers)), method.sharding
    )
    states = [method.fresh(jax.random.key(0))] if states is None else states
    began = time.perf_counter()
    program = method.round.lower(states[0], view, key, weight_S, steps=steps).compile()
    compilation = time.perf_counter() - began

    def run() -> Any:
        states[0], metrics = program(states[0], view, key, weight_S)
        return metrics

    return Round(run, steps, compilation, method)


def network_round(network: Network, steps: int, **options: Any) -> Round:
    """A round of `network` on random data; options are those of `method_of`."""
    data = dataset(network.features, network.classes)
    return round_of(method_of(network, **options), data, steps)


def send_blocks(num_bytes: int, leaves: int, packed: bool) -> Callable[[], Any]:
    """A program that sends `leaves` blocks of `num_bytes` per device over a mesh of all devices.

    They are sent in one collective if `packed`, else in one collective each.
    """
    mesh = subnet_mesh()
    transport = MeshTransport(mesh, mesh.size, fuse_below=2**62 if packed else 0)
    shape = (mesh.size * mesh.size, -(-num_bytes // (4 * mesh.size)))
    blocks = jax.device_put([jnp.ones(shape)] * leaves, NamedSharding(mesh, PartitionSpec(AXIS)))
    send = jax.jit(
        transport.shard_mapped(transport.all_to_all, (PartitionSpec(AXIS),), PartitionSpec(AXIS))
    )
    return lambda: send(blocks)


def _norm(x: jax.Array) -> jax.Array:
    return (x - x.mean(0, keepdims=True)) * jax.lax.rsqrt(x.var(0, keepdims=True) + 1e-5)


def _placement_by_hand() -> Placement:
    return looped() if jax.default_backend() == "cpu" else vmapped()


def _loss_by_hand(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    for kernel, (scale, bias) in zip(params["kernels"][:-1], params["norms"]):
        x = jax.nn.relu(_norm(x @ kernel) * scale[None] + bias[None])
    logits = _norm(x @ params["kernels"][-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def _train_by_hand(arrays: Any, worker: Any) -> Any:
    def step(params: Any, index: jax.Array) -> Any:
        x, y = arrays["x"][index], arrays["y"][index]
        value, gradient = jax.value_and_grad(_loss_by_hand)(params, x, y)
        return jax.tree.map(lambda p, g: p - RATE * g, params, gradient), value

    params, index_JxB = worker
    return jax.lax.scan(step, params, index_JxB)


def by_hand(network: Network, steps: int) -> Callable[[], Any]:
    """J local steps of S subnetworks, written by hand: same shapes, same gather, no exchange."""
    widths = network.worker_widths
    rng = np.random.default_rng(0)

    def stack(*shape: int) -> jax.Array:
        values = rng.normal(size=(network.num_subnets, *shape)).astype(np.float32)
        return jnp.asarray(0.05 * values)

    params = {
        "kernels": [stack(a, b) for a, b in itertools.pairwise(widths)],
        "norms": [(stack(width), stack(width)) for width in widths[1:-1]],
    }
    index = jnp.asarray(rng.integers(0, EXAMPLES, (network.num_subnets, steps, BATCH)))
    arrays = jax.tree.map(jnp.asarray, dict(dataset(network.features, network.classes).train))
    train_all = _placement_by_hand()(_train_by_hand)
    program = jax.jit(
        lambda params, arrays, index: train_all(arrays, (params, index)), donate_argnums=0
    )
    params_of_all = [params]

    def run() -> Any:
        params_of_all[0], losses = program(params_of_all[0], arrays, index)
        return losses

    return run


def products(network: Network, steps: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A compiled program of only the matrix products of J local steps, and its arguments.

    As in a step, each product takes the result of the one before it. Weights do not change. Batches
    differ from step to step and every step returns its gradients, so that the compiler moves no
    product out of the loop and removes none.
    """
    widths = network.worker_widths
    rng = np.random.default_rng(0)

    def stack(a: int, b: int) -> jax.Array:
        values = rng.normal(size=(network.num_subnets, a, b)) / a**0.5
        return jnp.asarray(values.astype(np.float32))

    kernels = [stack(a, b) for a, b in itertools.pairwise(widths)]
    x_2xBxD = jnp.asarray(rng.normal(size=(2, BATCH, widths[0])).astype(np.float32))

    def train(x_2xBxD: jax.Array, kernels: Any) -> Any:
        def step(_: Any, j: jax.Array) -> Any:
            inputs = [x_2xBxD[j % 2]]
            for kernel in kernels:
                inputs.append(inputs[-1] @ kernel)
            error, gradients = inputs.pop(), []
            for x, kernel in zip(inputs[::-1], kernels[::-1]):
                gradients.insert(0, x.T @ error)
                error = error @ kernel.T if len(gradients) < len(kernels) else error
            return gradients, None

        return jax.lax.scan(step, kernels, jnp.arange(steps))[0]

    program = jax.jit(_placement_by_hand()(train)).lower(x_2xBxD, kernels).compile()
    return program, (x_2xBxD, kernels)


def product_flops(network: Network) -> float:
    """FLOPs of the matrix products of one local step of one worker."""
    each = [2 * BATCH * a * b for a, b in itertools.pairwise(network.worker_widths)]
    return 3 * sum(each) - each[0]
