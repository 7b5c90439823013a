"""Checkpoints, so that a run can go on where it stopped. The only module that knows orbax."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ist_jax.trees import leaf_names

_KEEP = 2


def _shapes(state: Any) -> dict[str, list[int]]:
    return {name: list(leaf.shape) for name, leaf in zip(leaf_names(state), jax.tree.leaves(state))}


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
            self._checkpointer.save(round, state, custom_metadata={"book": bookkeeping, "shapes": _shapes(state)})

    def latest(self) -> dict[str, Any] | None:
        """The bookkeeping of the newest checkpoint, None if there is none."""
        return None if self._checkpointer.latest is None else dict(self._metadata()["book"])

    def _metadata(self) -> dict[str, Any]:
        return self._checkpointer.metadata(self._checkpointer.latest.step).custom_metadata

    def restore(self, like: Any) -> Any:
        """The state of the newest checkpoint, with the structure and shardings of `like`.

        Raises:
          ValueError: the checkpoint's arrays have other names or shapes.
        """
        saved, wanted = self._metadata()["shapes"], _shapes(like)
        if differing := [name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)]:
            name = min(differing)
            raise ValueError(f"{name} has shape {saved.get(name)} there and {wanted.get(name)} here")
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._checkpointer.load(self._checkpointer.latest.step, abstract)

    def close(self) -> None:
        self._checkpointer.close()
