"""Checkpoints, so that a run can go on where it stopped. The only module that knows orbax."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

_KEEP = 2


class Checkpoints:
    """The checkpoints in one folder, numbered by round.

    A checkpoint is the algorithm's state as it lies, sharded or not, and a JSON object of the loop's own
    bookkeeping.
    """

    def __init__(self, folder: str | pathlib.Path):
        policy = ocp.training.preservation_policies.LatestN(_KEEP)
        path = pathlib.Path(folder).absolute()
        self._checkpointer = ocp.training.Checkpointer(path, preservation_policy=policy)

    def save(self, round: int, state: Any, bookkeeping: dict[str, Any]) -> None:
        """Writes the checkpoint of `round`, unless there is one; when this returns it is committed."""
        if self._checkpointer.latest is None or self._checkpointer.latest.step != round:
            self._checkpointer.save(round, state, custom_metadata=bookkeeping)

    def latest(self) -> dict[str, Any] | None:
        """The bookkeeping of the newest checkpoint, None if there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else dict(self._checkpointer.metadata(newest.step).custom_metadata)

    def restore(self, like: Any) -> Any:
        """The state of the newest checkpoint, with the structure and shardings of `like`."""
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._checkpointer.load(self._checkpointer.latest.step, abstract)

    def close(self) -> None:
        self._checkpointer.close()
