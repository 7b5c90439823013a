"""Where the S local trainings of a round run.

A placement turns `f(shared, own)`, the work of one subnetwork, into the work of all S:
`placement(f)(shared, own_S)`, where every leaf of `own_S` and of the result has a leading axis S and
`shared` is the same for all, but for what lies by devices in it (`order.ByDevice`).

`placement.summed(f)` does the same for an `f` that gives (value, addend), and gives (value_S, the sum of the addends): added up
where they arise, so that no more than one of a device need be held.

    looped()                 one after another in one program (a scan)
    vmapped()                all at once as batched operations
    sharded(mesh, inner)     S / R on each of the R devices of a mesh, there by `inner`
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ist_jax.core.sample_order import is_by_device, of_one_device

PLACEMENTS = ("auto", "looped", "vmapped", "sharded")
BATCHED = ("never", "accelerator", "always")  # where several subnetworks are faster as one batch
AXIS = "subnet"  # the one mesh axis: subnetworks and homes lie along it

PerSubnet = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Placement:
    """A placement; call it with `f(shared, own)` to get `f_S(shared, own_S)`.

    Attributes:
      name: for records.
      wrap: the transformation.
      summed: the transformation of an `f` that gives (value, addend).
      mesh: the mesh it runs on, None on one device.
    """

    name: str
    wrap: Callable[[PerSubnet], PerSubnet]
    summed: Callable[[PerSubnet], PerSubnet]
    mesh: Mesh | None = None

    def __call__(self, f: PerSubnet) -> PerSubnet:
        return self.wrap(f)

    @property
    def replicated_sharding(self) -> jax.sharding.Sharding:
        """The sharding of a value that every device of the placement holds."""
        if self.mesh is None:
            return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return NamedSharding(self.mesh, PartitionSpec())


def looped() -> Placement:
    """One subnetwork after another on one device."""

    def summed(f: PerSubnet) -> PerSubnet:
        def run(shared: Any, own_S: Any) -> tuple[Any, Any]:
            def one(total: Any, own: Any) -> tuple[Any, Any]:
                value, addend = f(shared, own)
                return jax.tree.map(jnp.add, total, addend), value

            shapes = jax.eval_shape(f, shared, jax.tree.map(lambda leaf: leaf[0], own_S))[1]
            none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            total, value_S = jax.lax.scan(one, none, own_S)
            return value_S, total

        return run

    return Placement(
        "looped",
        lambda f: lambda shared, own_S: jax.lax.map(lambda own: f(shared, own), own_S),
        summed,
    )


def vmapped() -> Placement:
    """All subnetworks at once on one device, as batched operations."""

    def summed(f: PerSubnet) -> PerSubnet:
        def run(shared: Any, own_S: Any) -> tuple[Any, Any]:
            value_S, addend_S = jax.vmap(f, in_axes=(None, 0))(shared, own_S)
            return value_S, jax.tree.map(lambda leaf_S: leaf_S.sum(axis=0), addend_S)

        return run

    return Placement("vmapped", lambda f: jax.vmap(f, in_axes=(None, 0)), summed)


def _unstacked(f: PerSubnet) -> PerSubnet:
    """For one subnetwork on a device: no loop and no batching around it."""
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    return lambda shared, own_1: jax.tree.map(lambda leaf: leaf[None], f(shared, first(own_1)))


def sharded(mesh: Mesh, inner: Placement | None = None) -> Placement:
    """Subnetworks over the devices of `mesh`, S / R on each, there by `inner` (default: vmapped)."""
    inner = inner or vmapped()

    def on_mesh(on_device: PerSubnet, out_specs: Any) -> PerSubnet:
        def run(shared: Any, own_S: Any) -> Any:
            spec = lambda leaf: PartitionSpec(AXIS) if is_by_device(leaf) else PartitionSpec()
            specs = (jax.tree.map(spec, shared, is_leaf=is_by_device), PartitionSpec(AXIS))
            seen = lambda shared, own_S: on_device(of_one_device(shared), own_S)
            # check_vma: Flax initialises scan carries of one kind and returns the other; sums are explicit
            return jax.shard_map(
                seen, mesh=mesh, in_specs=specs, out_specs=out_specs, check_vma=False
            )(shared, own_S)

        return run

    def wrap(f: PerSubnet) -> PerSubnet:
        def on_device(shared: Any, own_S: Any) -> Any:
            per_device = jax.tree.leaves(own_S)[0].shape[0]
            return (_unstacked(f) if per_device == 1 else inner(f))(shared, own_S)

        return on_mesh(on_device, PartitionSpec(AXIS))

    def summed(f: PerSubnet) -> PerSubnet:
        def on_device(shared: Any, own_S: Any) -> tuple[Any, Any]:
            value_S, total = inner.summed(f)(shared, own_S)
            return value_S, jax.lax.psum(total, AXIS)

        return on_mesh(on_device, (PartitionSpec(AXIS), PartitionSpec()))

    return Placement(f"sharded({inner.name})", wrap, summed, mesh)


def subnet_mesh(num_devices: int = 0) -> Mesh:
    """A mesh of the first `num_devices` devices (0: all) with the one axis that subnetworks lie along.

    Raises:
      ValueError: more devices asked for than there are.
    """
    available = jax.devices()
    if num_devices > len(available):
        raise ValueError(
            f"num_devices={num_devices} is more than the {len(available)} devices of this machine"
        )
    devices = available[: num_devices or len(available)]
    # Auto: under Explicit axes (the default), gathers along a sharded axis raise
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def _on_one_device(batched: str) -> Placement:
    """The faster one."""
    here = ("always",) if jax.default_backend() == "cpu" else ("accelerator", "always")
    return vmapped() if batched in here else looped()


def make_placement(
    name: str,
    num_subnets: int,
    num_devices: int = 0,
    *,
    on_mesh: bool = True,
    batched: str = "accelerator",
) -> Placement:
    """A placement by its configured name.

    'auto' is 'sharded' where the machine has several devices that divide S; on one device 'vmapped' where the model is faster
    as a batch, else 'looped'.

    Args:
      name: 'auto', 'looped', 'vmapped' or 'sharded'.
      num_subnets: S.
      num_devices: of a mesh; 0: all.
      on_mesh: whether a mesh will do; if not, 'auto' stays on one device.
      batched: where several train faster as one batch: 'accelerator', not on a CPU, whose batched matrix products are
        slower than single ones; 'never', as convolutions with kernels of their own, which become grouped ones; or 'always'.

    Raises:
      ValueError: unknown name or `batched`, too many devices, devices that do not divide S, or a number of devices for a
        placement that has one.
    """
    for what, value, values in (("placement", name, PLACEMENTS), ("batched", batched, BATCHED)):
        if value not in values:
            raise ValueError(f"{what} is one of {', '.join(values)}, not {value!r}")
    if name in ("looped", "vmapped"):
        if num_devices > 1:
            raise ValueError(
                f"placement={name} has one device, and num_devices={num_devices}: use sharded, or num_devices=0"
            )
        return looped() if name == "looped" else vmapped()
    mesh = subnet_mesh(num_devices)
    if num_subnets % mesh.size == 0 and (name == "sharded" or (mesh.size > 1 and on_mesh)):
        return sharded(mesh, _on_one_device(batched))
    if name == "sharded" or num_devices > 1:
        raise ValueError(
            f"every device carries as many subnetworks: num_subnets={num_subnets} is no multiple of "
            f"num_devices={mesh.size}; set num_devices to a divisor"
        )
    return _on_one_device(batched)
