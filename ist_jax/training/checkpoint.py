"""Checkpoints, from which a run resumes."""

import errno
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding

from ist_jax.core.errors import first_line
from ist_jax.core.processes import all_succeed, broadcast_from_first, is_first
from ist_jax.core.trees import leaf_shapes, map_with_names, shape_difference
from ist_jax.training import arrays
from ist_jax.training.files import json_text, write_whole

_KEEP = 2  # checkpoints
_DIGEST = ".sha256"  # DIR/12.sha256 is written after DIR/12, and commits it
_WRITTEN_EARLIER = (
    "{path} was written by an earlier version of this software: finish the run with that version, "
    "or use another workdir"
)
_METADATA_BYTES = 2**16  # more than the names, shapes and digests of a checkpoint take


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written, or does not fit this run."""


def committed_rounds(folder: pathlib.Path) -> list[int]:
    """The rounds with a committed checkpoint in `folder`, damaged or not, oldest first."""
    return sorted(int(file.stem) for file in folder.glob(f"*{_DIGEST}") if file.stem.isdigit())


def _digest(folder: pathlib.Path, *, durable: bool = False) -> str:
    """SHA-256 of every file below `folder`, as sha256sum prints it in the folder above.

    With `durable`, the files are on the disk when the function returns.
    """
    lines = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
            if durable:
                os.fsync(opened.fileno())
        lines.append(f"{digest}  {file.relative_to(folder.parent)}\n")
    return "".join(lines)


class Checkpoints:
    """The checkpoints in one folder, numbered by round; the newest two are kept.

    A checkpoint is the method's state in storage order, sharded or not, and a JSON object. A file
    of digests commits it. That file is written last, after the arrays have been read back
    (`arrays`). It is verified before the checkpoint is read. Without it, orbax would load a damaged
    array without an error.

    Args:
      folder: where the checkpoints are; made if it is missing.
      say: is called with a message about each damaged checkpoint.
      tidy: whether to remove what a dead process left unfinished, and to rename damaged
        checkpoints. Only the run that writes in `folder` may do that.

    Raises:
      CheckpointError: checkpoints were committed, and all of them are damaged.
      OSError: the folder cannot be read or written.
    """

    def __init__(
        self,
        folder: str | pathlib.Path,
        say: Callable[[str], None] = lambda line: None,
        *,
        tidy: bool = True,
    ):
        self._folder, self._say, self._tidy = pathlib.Path(folder).absolute(), say, tidy
        self._round = broadcast_from_first(self._newest_undamaged)

    def _newest_undamaged(self) -> int:
        """The newest round with an undamaged checkpoint, -1 if none was ever committed."""
        committed = committed_rounds(self._folder)
        if self._tidy:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished(committed)
        for round in reversed(committed):
            if self._is_undamaged(round):
                return round
            self._say(f"{self._folder / str(round)} is damaged: resuming from the one before it")
            if self._tidy:
                self._set_aside(round)
        if committed or any(self._folder.glob(f"*{_DIGEST}.damaged")):
            raise CheckpointError(
                f"{self._folder}: checkpoints were committed here, and all of them are damaged: "
                f"use another workdir"
            )
        return -1

    def _is_undamaged(self, round: int) -> bool:
        try:
            digest = self._digest_file(round).read_bytes()
            return digest == _digest(self._folder / str(round)).encode()
        except OSError:  # a file is missing, or the disk cannot read it
            return False

    def _digest_file(self, round: int) -> pathlib.Path:
        return self._folder / f"{round}{_DIGEST}"

    def _remove_unfinished(self, committed: Sequence[int]) -> None:
        """Removes what a process left behind if it died writing or removing a checkpoint."""
        for path in self._folder.iterdir():
            if not path.name.split(".")[0].isdigit() or path.suffix == ".damaged":
                continue
            if path.is_dir() and path.name not in map(str, committed):
                shutil.rmtree(path)
            elif path.suffix == ".tmp":
                path.unlink()

    def _set_aside(self, round: int) -> None:
        for path in (self._folder / str(round), self._digest_file(round)):
            aside = path.with_name(path.name + ".damaged")
            if aside.is_dir():
                shutil.rmtree(aside)
            if path.exists():
                path.replace(aside)

    def save(self, round: int, state: Any, params: Any, run_state: Mapping[str, Any]) -> None:
        """Commits the checkpoint of `round`, unless it is the newest one already.

        Args:
          round: the number of rounds done.
          state: of the method, in storage order.
          params: of the full model, arrays or their shapes; `restore` compares names and shapes.
          run_state: a JSON object.

        Raises:
          CheckpointError: the checkpoint cannot be written or read back. Earlier ones are kept.
        """
        if self._round == round:
            return
        metadata = {
            "run_state": dict(run_state),
            "shapes": leaf_shapes(state),
            "model": leaf_shapes(params),
        }
        try:
            all_succeed(lambda: self._check(state, metadata))
            arrays.save(self._literal(round), state, metadata)
            all_succeed(lambda: self._commit(round, state))
        except Exception as error:  # a full disk raises many kinds of error in orbax
            if (lost := _lost_process_error(error)) is not None:
                raise lost from None
            raise CheckpointError(
                f"{self._folder / str(round)}: cannot be written ({first_line(error)}); "
                "earlier checkpoints are kept"
            ) from error
        self._round = round

    def _literal(self, round: int) -> str:
        """The path of a checkpoint that orbax takes literally."""
        return f"{arrays.literal_path(self._folder)}/{round}"

    def _check(self, state: Any, metadata: Mapping[str, Any]) -> None:
        """Raises early what orbax would raise late, in one process alone or in many threads.

        Raises:
          OSError: the disk is too full, or the folder has no path that orbax takes literally.
          ValueError: the metadata hold nan or infinity.
        """
        arrays.literal_path(self._folder)
        json_text(metadata)
        if not is_first():
            return
        needed = _METADATA_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            full = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, f"{full}: {needed:,} bytes are needed, {free:,} are free")

    def _commit(self, round: int, state: Any) -> None:
        if not is_first():
            return
        arrays.check_saved(self._literal(round), state)
        write_whole(self._digest_file(round), _digest(self._folder / str(round), durable=True))
        for old in committed_rounds(self._folder)[:-_KEEP]:
            self._digest_file(old).unlink()  # first: without it, the checkpoint is unfinished
            shutil.rmtree(self._folder / str(old))

    def run_state(self) -> dict[str, Any] | None:
        """The run state in the newest undamaged checkpoint; None if there is no checkpoint."""
        return None if self._round < 0 else self._metadata()["run_state"]

    def _metadata(self) -> dict[str, Any]:
        """{"run_state", "shapes", "model"}; checked, because undamaged files may hold anything."""
        path = self._folder / str(self._round)
        try:
            metadata: dict[str, Any] = dict(arrays.read_metadata(self._literal(self._round)))
            earlier = "book" in metadata  # what is "run_state" now
            names = () if earlier else ("run_state", "shapes", "model")
            parts = {name: dict(metadata[name]) for name in names}
        except Exception as error:  # whatever orbax raises for a file that is not a checkpoint
            raise CheckpointError(
                f"{path} is no checkpoint of this software ({first_line(error)})"
            ) from error
        if earlier:
            raise CheckpointError(_WRITTEN_EARLIER.format(path=path))
        return parts

    def restore(self, like: Any, params: Any) -> Any:
        """The state of the newest undamaged checkpoint, with the structure and shardings of `like`.

        An axis may have another length if only zeros are added or removed: a mesh pads groups.

        Args:
          like: a state, or the shapes, dtypes and shardings of one.
          params: of the full model, arrays or their shapes.

        Raises:
          CheckpointError: the checkpoint is damaged, is of another model, or is of a run whose
            state has other arrays.
        """
        self._compare("model", self._metadata()["model"], leaf_shapes(params))
        saved, wanted = self._metadata()["shapes"], leaf_shapes(like)
        self._compare("run", dict.fromkeys(saved), dict.fromkeys(wanted))

        def abstract(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
            fits = saved[name] == wanted[name]
            sharding = leaf.sharding if fits else SingleDeviceSharding(jax.local_devices()[0])
            return jax.ShapeDtypeStruct(saved[name], leaf.dtype, sharding=sharding)

        path = self._folder / str(self._round)
        try:
            state = arrays.load(self._literal(self._round), map_with_names(abstract, like))
        except Exception as error:  # whatever orbax raises, although the digests are right
            raise CheckpointError(f"{path} cannot be loaded: {first_line(error)}") from error
        return map_with_names(self._fitted, like, state)

    def _compare(self, what: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        if difference := shape_difference(saved, wanted):
            raise CheckpointError(
                f"{self._folder}: the checkpoint is of another {what}, {difference}: "
                f"use another workdir"
            )

    def _fitted(self, name: str, like: Any, saved: Any) -> Any:
        """`saved` with the shape of `like`: zeros are added or removed at the end of its axes."""
        if saved.shape == like.shape:
            return saved
        same_rank = saved.ndim == like.ndim
        kept = np.asarray(saved)[tuple(map(slice, like.shape))] if same_rank else np.zeros(0)
        if np.count_nonzero(kept) != np.count_nonzero(saved):
            raise CheckpointError(
                f"{self._folder}: {name} has shape {list(saved.shape)} in the checkpoint and "
                f"{list(like.shape)} in this run, and zero padding is not the reason: use another "
                "workdir"
            )
        padding = [(0, wanted - length) for wanted, length in zip(like.shape, kept.shape)]
        return jax.device_put(np.pad(kept, padding), like.sharding)


def _lost_process_error(error: BaseException | None) -> BaseException | None:
    """The JAX error that caused `error` if this process waited for one that had died, else None."""
    cause = error
    while cause is not None and not isinstance(cause, JaxRuntimeError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and jax.process_count() > 1 and "barrier" in str(error):
        return JaxRuntimeError(str(error))  # sometimes orbax keeps only the message
    return cause
