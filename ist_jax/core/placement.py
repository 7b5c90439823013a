"""Placements: how the local steps of S subnetworks are mapped to devices.

A placement maps a function of one subnetwork, `f(shared, worker)`, over all of them:
`placement(f)(shared, worker_S)`. Every leaf of `worker_S` and of the result has a leading axis S.
`shared` is the same for all subnetworks, except for its `ByDevice` values (`core.sample_order`).

If `f` returns (value, term), `placement.summed(f)` returns (value_S, the sum of all terms). With
`looped`, a device adds up its terms as it computes them, and stores one at a time. With `vmapped`,
it stores all of them first.

    looped()                 one subnetwork after another in one program (a scan)
    vmapped()                all at once, as batched operations (vmap)
    sharded(mesh, inner)     S / R on each of the R devices of a mesh, by the placement `inner`
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ist_jax.core.sample_order import is_by_device, local_part

PLACEMENTS = ("auto", "looped", "vmapped", "sharded")
BATCHED = ("never", "accelerator", "always")  # where batching subnetworks beats a loop
AXIS = "subnet"  # the mesh axis over which subnetworks and homes are sharded

PerSubnet = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Placement:
    """A placement. Call it with `f(shared, worker)` to get `f_S(shared, worker_S)`.

    Attributes:
      name: for records.
      wrap: the transformation of `f`.
      summed: the transformation of an `f` that returns (value, term).
      mesh: the mesh of a sharded placement; None for one device.
    """

    name: str
    wrap: Callable[[PerSubnet], PerSubnet]
    summed: Callable[[PerSubnet], PerSubnet]
    mesh: Mesh | None = None

    def __call__(self, f: PerSubnet) -> PerSubnet:
        return self.wrap(f)

    @property
    def replicated_sharding(self) -> jax.sharding.Sharding:
        """The sharding of values that every device of the placement stores."""
        if self.mesh is None:
            return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return NamedSharding(self.mesh, PartitionSpec())


def looped() -> Placement:
    """One subnetwork after another on one device."""

    def wrap(f: PerSubnet) -> PerSubnet:
        def run(shared: Any, worker_S: Any) -> Any:
            return jax.lax.map(lambda worker: f(shared, worker), worker_S)

        return run

    def summed(f: PerSubnet) -> PerSubnet:
        def run(shared: Any, worker_S: Any) -> tuple[Any, Any]:
            def add_one(total: Any, worker: Any) -> tuple[Any, Any]:
                value, term = f(shared, worker)
                return jax.tree.map(jnp.add, total, term), value

            first = jax.tree.map(lambda leaf: leaf[0], worker_S)
            _, term = jax.eval_shape(f, shared, first)
            zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), term)
            total, value_S = jax.lax.scan(add_one, zero, worker_S)
            return value_S, total

        return run

    return Placement("looped", wrap, summed)


def vmapped() -> Placement:
    """All subnetworks at once on one device, as batched operations."""

    def wrap(f: PerSubnet) -> PerSubnet:
        return jax.vmap(f, in_axes=(None, 0))

    def summed(f: PerSubnet) -> PerSubnet:
        def run(shared: Any, worker_S: Any) -> tuple[Any, Any]:
            value_S, term_S = wrap(f)(shared, worker_S)
            return value_S, jax.tree.map(lambda leaf_S: leaf_S.sum(axis=0), term_S)

        return run

    return Placement("vmapped", wrap, summed)


def _for_one(f: PerSubnet) -> PerSubnet:
    """`f` for one subnetwork per device, without a loop or a batch axis."""

    def run(shared: Any, worker_1: Any) -> Any:
        worker = jax.tree.map(lambda leaf: leaf[0], worker_1)
        return jax.tree.map(lambda leaf: leaf[None], f(shared, worker))

    return run


def _over_mesh(mesh: Mesh, on_device: PerSubnet, out_specs: Any) -> PerSubnet:
    """`on_device` run on every device of the mesh, on its share of the subnetworks."""

    def run_on_device(shared: Any, worker_S: Any) -> Any:
        return on_device(local_part(shared), worker_S)

    def spec(leaf: Any) -> PartitionSpec:
        return PartitionSpec(AXIS) if is_by_device(leaf) else PartitionSpec()

    def run(shared: Any, worker_S: Any) -> Any:
        shared_specs = jax.tree.map(spec, shared, is_leaf=is_by_device)
        # check_vma=False, since the carry of a Flax scan starts replicated and ends varying
        mapped = jax.shard_map(
            run_on_device,
            mesh=mesh,
            in_specs=(shared_specs, PartitionSpec(AXIS)),
            out_specs=out_specs,
            check_vma=False,
        )
        return mapped(shared, worker_S)

    return run


def sharded(mesh: Mesh, inner: Placement | None = None) -> Placement:
    """S / R subnetworks on each of the R devices along the mesh's axis `AXIS`.

    Args:
      mesh: a mesh with the axis `AXIS`.
      inner: how subnetworks are placed on each device; default: vmapped.
    """
    inner = inner or vmapped()

    def wrap(f: PerSubnet) -> PerSubnet:
        def on_device(shared: Any, worker_S: Any) -> Any:
            per_device = jax.tree.leaves(worker_S)[0].shape[0]
            return (_for_one(f) if per_device == 1 else inner(f))(shared, worker_S)

        return _over_mesh(mesh, on_device, PartitionSpec(AXIS))

    def summed(f: PerSubnet) -> PerSubnet:
        def on_device(shared: Any, worker_S: Any) -> tuple[Any, Any]:
            value_S, total = inner.summed(f)(shared, worker_S)
            return value_S, jax.lax.psum(total, AXIS)

        return _over_mesh(mesh, on_device, (PartitionSpec(AXIS), PartitionSpec()))

    return Placement(f"sharded({inner.name})", wrap, summed, mesh)


def subnet_mesh(num_devices: int = 0) -> Mesh:
    """A mesh of the first `num_devices` devices (0: all) with the single axis `AXIS`.

    Raises:
      ValueError: the machine has fewer devices.
    """
    available = jax.devices()
    if num_devices > len(available):
        raise ValueError(
            f"num_devices={num_devices} is more than the {len(available)} devices of this machine"
        )
    devices = available[: num_devices or len(available)]
    # Auto, since gathers along a sharded axis raise under Explicit axes (the default)
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def _on_one_device(batched: str) -> Placement:
    """vmapped where batching is faster on this backend, else looped."""
    on_cpu = jax.default_backend() == "cpu"
    is_faster = batched == "always" or (batched == "accelerator" and not on_cpu)
    return vmapped() if is_faster else looped()


def make_placement(
    name: str,
    num_subnets: int,
    num_devices: int = 0,
    *,
    on_mesh: bool = True,
    batched: str = "accelerator",
) -> Placement:
    """The placement with a configured name.

    'auto' means 'sharded' if there are several devices and their number divides S. Otherwise it
    means 'vmapped' if batching is faster on this backend, and 'looped' if not.

    Args:
      name: 'auto', 'looped', 'vmapped' or 'sharded'.
      num_subnets: S.
      num_devices: devices of the mesh; 0: all.
      on_mesh: whether the method can run on a mesh. If not, 'auto' uses one device.
      batched: on which backends it is faster to train several subnetworks as one batch than in a
        loop. 'accelerator': all but the CPU, where batched matrix products are slower than single
        ones. 'never': none. This is for convolutions: since every subnetwork has its own kernels,
        a batch would turn them into grouped convolutions. 'always': all.

    Raises:
      ValueError: `name` or `batched` is unknown; there are fewer devices, their number does not
        divide S, or `name` places everything on one device.
    """
    for what, value, values in (("placement", name, PLACEMENTS), ("batched", batched, BATCHED)):
        if value not in values:
            raise ValueError(f"{what} is one of {', '.join(values)}, not {value!r}")
    if name in ("looped", "vmapped"):
        if num_devices > 1:
            raise ValueError(
                f"placement={name} uses one device, not num_devices={num_devices}: use sharded, or "
                "num_devices=0"
            )
        return looped() if name == "looped" else vmapped()
    mesh = subnet_mesh(num_devices)
    size = mesh.shape[AXIS]
    if num_subnets % size == 0 and (name == "sharded" or (size > 1 and on_mesh)):
        return sharded(mesh, _on_one_device(batched))
    if name == "sharded" or num_devices > 1:
        raise ValueError(
            f"every device has equally many subnetworks: num_subnets={num_subnets} is no multiple "
            f"of num_devices={size}; set num_devices to a divisor"
        )
    return _on_one_device(batched)
