"""Checkpoints, so that a run can resume. The only module that knows orbax."""

import errno
import functools
import hashlib
import logging
import os
import pathlib
import shutil
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding

from ist_jax.core.processes import all_succeed, broadcast_from_first
from ist_jax.core.trees import leaf_shapes, map_with_names, shape_difference
from ist_jax.training.files import write_whole

_KEEP = 2
_DIGEST = ".sha256"  # DIR/12.sha256 is written after DIR/12, and commits it
_WRITTEN_EARLIER = (
    "{path} was written by an earlier version of this software: finish the run with that version, "
    "or use another workdir"
)
_METADATA_BYTES = 2**16  # more than the names, shapes and digests of a checkpoint take


class CheckpointError(RuntimeError):
    """No committed checkpoint can be read, or one does not fit this run or cannot be written."""


def committed_rounds(folder: pathlib.Path) -> list[int]:
    """The rounds whose checkpoints were committed in `folder`, damaged or not, oldest first."""
    return sorted(int(file.stem) for file in folder.glob(f"*{_DIGEST}") if file.stem.isdigit())


def _digest(folder: pathlib.Path, *, durable: bool = False) -> str:
    """SHA-256 of every file below `folder`, in the format of sha256sum, run in the folder above.

    With `durable`, the files are on the disk when it returns.
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

    A checkpoint is the method's state in storage order, sharded or not, with a JSON object beside
    it. A file of digests commits it: that file is written last, and verified before the checkpoint
    is read. Orbax alone loads a damaged array without an error.

    Args:
      folder: where they are; made if it is missing.
      say: takes a message about each damaged checkpoint.
      tidy: whether to remove what a dead process left unfinished, and to rename damaged
        checkpoints. Only the run that writes here may do that.

    Raises:
      CheckpointError: some were committed, and all of them are damaged.
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
            if self._is_whole(round):
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

    def _is_whole(self, round: int) -> bool:
        try:
            digest = self._digest_file(round).read_bytes()
            return digest == _digest(self._folder / str(round)).encode()
        except OSError:  # a file is missing, or the disk cannot read it
            return False

    def _digest_file(self, round: int) -> pathlib.Path:
        return self._folder / f"{round}{_DIGEST}"

    def _remove_unfinished(self, committed: Sequence[int]) -> None:
        """Removes what a process left that died while it wrote or removed a checkpoint."""
        for path in self._folder.iterdir():
            ours = path.name.split(".")[0].isdigit() and path.suffix != ".damaged"
            if ours and path.is_dir() and path.name not in map(str, committed):
                shutil.rmtree(path)
            elif ours and path.suffix == ".tmp":
                path.unlink()

    def _set_aside(self, round: int) -> None:
        for path in (self._folder / str(round), self._digest_file(round)):
            aside = path.with_name(path.name + ".damaged")
            if aside.is_dir():
                shutil.rmtree(aside)
            if path.exists():
                path.replace(aside)

    def save(self, round: int, state: Any, params: Any, run_state: Mapping[str, Any]) -> None:
        """Commits the checkpoint of `round`, unless that is the newest one.

        Args:
          round: its number.
          state: of the method, in storage order.
          params: of the full model, arrays or their shapes; `restore` compares names and shapes.
          run_state: a JSON object.

        Raises:
          CheckpointError: it cannot be written; earlier ones are kept.
        """
        from orbax.checkpoint import v1 as ocp

        if self._round == round:
            return
        path = self._folder / str(round)
        metadata = {
            "run_state": dict(run_state),
            "shapes": leaf_shapes(state),
            "model": leaf_shapes(params),
        }
        try:
            all_succeed(lambda: self._check_space(state))
            _silence_orbax()
            ocp.save(str(path), state, custom_metadata=metadata, overwrite=True)
            all_succeed(lambda: self._commit(round))
        except Exception as error:  # a full disk raises many kinds of error in orbax
            if (gone := _of_another_process(error)) is not None:
                raise gone from None
            raise CheckpointError(
                f"{path}: cannot be written ({_first_line(error)}); earlier checkpoints are kept"
            ) from error
        self._round = round

    def _check_space(self, state: Any) -> None:
        """Checked first: on a full disk, each of orbax's threads would complain in its own way."""
        if jax.process_index() != 0:
            return
        needed = _METADATA_BYTES + sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            full = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, f"{full}: it takes {needed:,} bytes of {free:,} free")

    def _commit(self, round: int) -> None:
        if jax.process_index() != 0:
            return
        write_whole(self._digest_file(round), _digest(self._folder / str(round), durable=True))
        for old in committed_rounds(self._folder)[:-_KEEP]:
            self._digest_file(old).unlink()  # first: without it, the rest counts as unfinished
            shutil.rmtree(self._folder / str(old))

    def run_state(self) -> dict[str, Any] | None:
        """That of the newest undamaged checkpoint, None if there is none."""
        return None if self._round < 0 else self._metadata()["run_state"]

    def _metadata(self) -> dict[str, Any]:
        """{"run_state", "shapes", "model"}, checked: digests do not say what is in a file."""
        from orbax.checkpoint import v1 as ocp

        path = self._folder / str(self._round)
        try:
            metadata: dict[str, Any] = dict(cast(Any, ocp.metadata(str(path)).custom_metadata))
            earlier = "book" in metadata  # what is "run_state" now
            names = () if earlier else ("run_state", "shapes", "model")
            parts = {name: dict(metadata[name]) for name in names}
        except Exception as error:  # whatever orbax raises for a file that is not a checkpoint
            raise CheckpointError(
                f"{path} is no checkpoint of this software ({_first_line(error)})"
            ) from error
        if earlier:
            raise CheckpointError(_WRITTEN_EARLIER.format(path=path))
        return parts

    def restore(self, like: Any, params: Any) -> Any:
        """The state of the newest undamaged checkpoint, with the structure and shardings of `like`.

        An axis may have another length if only zeros are added or cut off: a mesh stores groups
        with padding.

        Args:
          like: a state, or the shapes, dtypes and shardings of one.
          params: of the full model, arrays or their shapes.

        Raises:
          CheckpointError: the checkpoint is of another model, or of a run with other arrays.
        """
        from orbax.checkpoint import v1 as ocp

        self._check("model", self._metadata()["model"], leaf_shapes(params))
        saved, wanted = self._metadata()["shapes"], leaf_shapes(like)
        self._check("run", dict.fromkeys(saved), dict.fromkeys(wanted))

        def abstract(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
            sharding = (
                leaf.sharding
                if saved[name] == wanted[name]
                else SingleDeviceSharding(jax.local_devices()[0])
            )
            return jax.ShapeDtypeStruct(saved[name], leaf.dtype, sharding=sharding)

        path = self._folder / str(self._round)
        try:
            state = ocp.load(str(path), map_with_names(abstract, like))
        except (
            Exception
        ) as error:  # whatever orbax raises; the digest says that the files are whole
            raise CheckpointError(f"{path} cannot be loaded: {_first_line(error)}") from error
        return map_with_names(self._fitted, like, state)

    def _check(self, what: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        if difference := shape_difference(saved, wanted):
            raise CheckpointError(
                f"{self._folder}: the checkpoint is of another {what}, {difference}: "
                f"use another workdir"
            )

    def _fitted(self, name: str, like: Any, saved: Any) -> Any:
        """`saved` with the shape of `like`: zeros at the end of its axes are added or cut off."""
        if saved.shape == like.shape:
            return saved
        same_rank = saved.ndim == like.ndim
        kept = np.asarray(saved)[tuple(map(slice, like.shape))] if same_rank else np.zeros(0)
        if np.count_nonzero(kept) != np.count_nonzero(saved):
            raise CheckpointError(
                f"{self._folder}: {name} has shape {list(saved.shape)} there and "
                f"{list(like.shape)} here, and not because of zero padding: use another workdir"
            )
        padding = [(0, wanted - length) for wanted, length in zip(like.shape, kept.shape)]
        return jax.device_put(np.pad(kept, padding), like.sharding)


def _is_of_orbax(trace: types.TracebackType | None) -> bool:
    return any("orbax" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))


def _is_news(record: logging.LogRecord) -> bool:
    raised = record.exc_info[2] if record.exc_info else None
    return record.levelno < logging.ERROR or not (
        "orbax" in record.pathname or _is_of_orbax(raised)
    )


@functools.cache
def _silence_orbax() -> None:
    """Stops orbax and its threads from logging errors that it raises: ours is one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    hook = sys.unraisablehook

    def without_closed_loops(raised: Any) -> None:
        """Threads that outlive a failed save report to an event loop that is gone."""
        if "Event loop is closed" not in str(raised.exc_value):
            hook(raised)

    sys.unraisablehook = without_closed_loops


def _of_another_process(error: BaseException | None) -> BaseException | None:
    """JAX's error at the bottom of `error`, if a process waited for another one that is gone."""
    cause = error
    while cause is not None and not isinstance(cause, JaxRuntimeError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and jax.process_count() > 1 and "barrier" in str(error):
        return JaxRuntimeError(str(error))  # sometimes orbax keeps only the message
    return cause


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
