"""Checkpoints, so that a run can go on where it stopped. The only module that knows orbax."""

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
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from ist_jax.core.processes import all_succeed, broadcast_from_first
from ist_jax.core.trees import leaf_shapes, map_with_names, shape_difference
from ist_jax.training.files import write_whole

_KEEP = 2
_DIGEST = ".sha256"  # DIR/12.sha256 is written after DIR/12, and commits it
_BESIDE = 2**16  # bytes of a checkpoint's names, shapes and digests, generously


class CheckpointError(RuntimeError):
    """Checkpoints were committed and none can be read, or one does not fit or cannot be written."""


def committed_rounds(folder: pathlib.Path) -> list[int]:
    """The rounds whose checkpoint was committed in `folder`, damaged or not, oldest first."""
    return sorted(int(file.stem) for file in folder.glob(f"*{_DIGEST}") if file.stem.isdigit())


def _digest(folder: pathlib.Path, *, durable: bool = False) -> str:
    """SHA-256 of every file below `folder`, as sha256sum writes and checks it in the folder above.

    With `durable` the files have reached the disk when it returns.
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

    A checkpoint is the algorithm's state as it lies, sharded or not, with a JSON object beside it. It is
    committed by a file of digests, which is written last and verified when it is read: orbax alone loads a
    damaged array without an error.

    Args:
      folder: where they lie; made if it is missing.
      say: takes a line about what was found damaged.
      tidy: whether to remove what a dead process left half-written, and to set damaged checkpoints aside; for the
        one run that writes here. False changes nothing.

    Raises:
      CheckpointError: some were committed, and none of them is undamaged.
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
            self._say(
                f"{self._folder / str(round)} is damaged: going on from the checkpoint before it"
            )
            if self._tidy:
                self._set_aside(round)
        if committed or any(self._folder.glob(f"*{_DIGEST}.damaged")):
            raise CheckpointError(
                f"{self._folder}: checkpoints were committed here, and all of them are damaged: use another workdir"
            )
        return -1

    def _is_whole(self, round: int) -> bool:
        try:
            return (
                self._digest_file(round).read_bytes() == _digest(self._folder / str(round)).encode()
            )
        except OSError:  # a disk that does not give back what it was given
            return False

    def _digest_file(self, round: int) -> pathlib.Path:
        return self._folder / f"{round}{_DIGEST}"

    def _remove_unfinished(self, committed: Sequence[int]) -> None:
        """What a process left that died while it wrote or removed a checkpoint."""
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

    def save(self, round: int, state: Any, params: Any, bookkeeping: Mapping[str, Any]) -> None:
        """Writes the checkpoint of `round`, unless it is the newest; when this returns it is committed.

        Args:
          round: its number.
          state: of the algorithm, as it lies.
          params: the whole model's, arrays or shapes of arrays: `restore` goes by their names and shapes.
          bookkeeping: a JSON object.

        Raises:
          CheckpointError: it cannot be written; those before it stand.
        """
        if self._round == round:
            return
        path = self._folder / str(round)
        metadata = {
            "book": dict(bookkeeping),
            "shapes": leaf_shapes(state),
            "model": leaf_shapes(params),
        }
        try:
            all_succeed(lambda: self._check_space(state))
            _silence_what_is_raised()
            ocp.save(path, state, custom_metadata=metadata, overwrite=True)
            all_succeed(lambda: self._commit(round))
        except Exception as error:  # a full disk is many kinds of error in the libraries below
            if (gone := _of_another_process(error)) is not None:
                raise gone from None
            raise CheckpointError(
                f"{path}: cannot be written ({_first_line(error)}); the checkpoints before it stand"
            ) from error
        self._round = round

    def _check_space(self, state: Any) -> None:
        """Asked first, as threads of the libraries below each complain in their own way of a full disk."""
        if jax.process_index() != 0:
            return
        needed, free = (
            _BESIDE + sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
            shutil.disk_usage(self._folder).free,
        )
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{os.strerror(errno.ENOSPC)}: it takes {needed:,} bytes of {free:,} free",
            )

    def _commit(self, round: int) -> None:
        if jax.process_index() != 0:
            return
        write_whole(self._digest_file(round), _digest(self._folder / str(round), durable=True))
        for old in committed_rounds(self._folder)[:-_KEEP]:
            self._digest_file(old).unlink()  # first: without it the rest is known as unfinished
            shutil.rmtree(self._folder / str(old))

    def bookkeeping(self) -> dict[str, Any] | None:
        """That of the newest undamaged checkpoint, None if there is none."""
        return None if self._round < 0 else self._metadata()["book"]

    def _metadata(self) -> dict[str, Any]:
        """{'book', 'shapes', 'model'}: a digest says that a file is whole, and nothing of what is in it."""
        path = self._folder / str(self._round)
        try:
            found = ocp.metadata(path).custom_metadata
            parts = {name: dict(found[name]) for name in ("book", "shapes", "model")}
        except Exception as error:  # as below
            raise CheckpointError(
                f"{path} is no checkpoint of this software ({_first_line(error)})"
            ) from error
        return parts

    def restore(self, like: Any, params: Any) -> Any:
        """The state of the newest undamaged checkpoint, with the structure and shardings of `like`.

        An axis may be longer or shorter here if what it loses or gains is zero: a mesh rests its groups padded.

        Args:
          like: a state, or the shapes, dtypes and shardings of one.
          params: those of the whole model that goes with it.

        Raises:
          CheckpointError: the checkpoint is of another model, or its arrays have other names or shapes.
        """
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

        try:
            found = ocp.load(self._folder / str(self._round), map_with_names(abstract, like))
        except (
            Exception
        ) as error:  # whatever the libraries below raise; the digest says that the files are whole
            raise CheckpointError(
                f"{self._folder / str(self._round)} cannot be loaded: {_first_line(error)}"
            ) from error
        return map_with_names(self._fitted, like, found)

    def _check(self, of: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
        if difference := shape_difference(there, here):
            raise CheckpointError(
                f"{self._folder}: the checkpoint is of another {of}, {difference}: use another workdir"
            )

    def _fitted(self, name: str, like: Any, found: Any) -> Any:
        if found.shape == like.shape:
            return found
        kept = (
            np.asarray(found)[tuple(map(slice, like.shape))]
            if found.ndim == like.ndim
            else np.zeros(0)
        )
        if np.count_nonzero(kept) != np.count_nonzero(found):
            differing = f"{name} has shape {list(found.shape)} there and {list(like.shape)} here"
            raise CheckpointError(
                f"{self._folder}: {differing}, and not for zero padding: use another workdir"
            )
        grown = np.pad(
            kept, [(0, wanted - length) for wanted, length in zip(like.shape, kept.shape)]
        )
        return jax.device_put(grown, like.sharding)


def _is_of_orbax(trace: types.TracebackType | None) -> bool:
    return any("orbax" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))


def _is_news(record: logging.LogRecord) -> bool:
    raised = record.exc_info[2] if record.exc_info else None
    return record.levelno < logging.ERROR or not (
        "orbax" in record.pathname or _is_of_orbax(raised)
    )


@functools.cache
def _silence_what_is_raised() -> None:
    """Orbax logs an error that it raises, and so does every thread of it that fails, some of them later: ours is one line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    hook = sys.unraisablehook  # of threads that report to a loop that has ended with an error
    sys.unraisablehook = lambda found: (
        None if "Event loop is closed" in str(found.exc_value) else hook(found)
    )


def _of_another_process(error: BaseException | None) -> JaxRuntimeError | None:
    """JAX's error at the bottom of `error`: processes that wait for each other to have written, and one is gone."""
    found = error
    while found is not None and not isinstance(found, JaxRuntimeError):
        found = found.__cause__ or found.__context__
    if found is None and jax.process_count() > 1 and "barrier" in str(error):
        return JaxRuntimeError(str(error))  # all that orbax keeps of it, at times
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
