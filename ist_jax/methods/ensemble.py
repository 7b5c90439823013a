"""Subnetworks that never meet, as a baseline of IST: its training without its exchange."""

import functools

import optax

from ist_jax.core.partition import partition
from ist_jax.core.placement import Placement, vmapped
from ist_jax.decompositions.base import Decomposition
from ist_jax.exchange import independent
from ist_jax.methods.base import Algorithm
from ist_jax.methods.ist import ist
from ist_jax.tasks.base import Task


def ensemble(
    decomposition: Decomposition,
    task: Task,
    tx: optax.GradientTransformation,
    *,
    batch_size: int,
    placement: Placement | None = None,
) -> Algorithm:
    """S subnetworks, contiguous slices of every group, that never meet; the prediction is the mean of their logits.

    Args: as of `ist`. The optimizer's state stays with its subnetwork; nothing is ever sent.
    """
    parts = decomposition.partition
    apart = decomposition._replace(partition=partition("fixed", parts.sizes, parts.num_subnets))
    placement = placement or vmapped()
    exchange = functools.partial(independent, mesh=placement.mesh)
    members = ist(
        apart,
        task,
        tx,
        batch_size=batch_size,
        placement=placement,
        exchange=exchange,
        opt_state="own",
    )
    mean = lambda variables, batch: members.subnet_predict(variables, batch).mean(axis=0)
    return members._replace(variables=members.subnet_variables, predict=mean)
