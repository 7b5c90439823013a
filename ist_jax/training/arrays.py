"""Arrays on disk, stored by orbax. No other module uses orbax.

Orbax and the libraries below it do not take every path literally. So they get a path that they do
take literally: that of the folder, or that of a symbolic link to it.
"""

import contextlib
import errno
import functools
import hashlib
import logging
import os
import pathlib
import re
import sys
import tempfile
import traceback
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ist_jax.core.trees import leaf_names, shape_difference, tree_bytes

# Paths that are taken literally. Others have "[", "*" or "?", which are read as patterns; a
# backslash, which is read as "/"; "gs:" or a folder such as /s3, which are read as buckets; "..",
# which is resolved without following links; or ".__lock", which is refused.
_LITERAL = re.compile(
    r"(?!/(gs|s3|az|hf)(/|$))(?!.*\.__lock(/|$))(/(?!\.\.(/|$))[\w .,=+@-]+)+",
)
_PLACES = ("/tmp", "/var/tmp")  # of links: all hosts need the same path, and TMPDIR may differ
# States up to this size are read back in full, in less time than orbax takes to start (0.1 s).
# Reading back a larger one would take as long as writing it, and as much memory again.
_READ_BACK = 2**26  # bytes


def literal_path(folder: pathlib.Path) -> str:
    """A path of `folder` that orbax takes literally: that of the folder, or of a link to it.

    All processes get the same path. The link is not removed, since another process may use it.

    Args:
      folder: absolute.

    Raises:
      OSError: no link can be made.
    """
    if _LITERAL.fullmatch(str(folder)):
        return str(folder)
    name = hashlib.sha256(os.fsencode(f"{os.geteuid()}:{folder}")).hexdigest()[:32]
    for place in (*_PLACES, tempfile.gettempdir()):
        link = f"{place}/ist_jax-{name}"
        if _LITERAL.fullmatch(link) and _links(link, str(folder)):
            return link
    raise OSError(
        errno.EACCES,
        f"checkpoints below such a path need a link in {' or '.join(_PLACES)}, which cannot be "
        "made: use a workdir of letters, digits and -_.,=+@",
    )


def _links(link: str, folder: str) -> bool:
    """Whether `link` is this user's link to `folder`. The link is made if nothing is there."""
    try:
        with contextlib.suppress(FileExistsError):
            os.symlink(folder, link)
        return os.readlink(link) == folder and os.lstat(link).st_uid == os.geteuid()
    except OSError:  # something else is there, or nothing can be written there
        return False


def save(path: str, state: Any, metadata: Mapping[str, Any]) -> None:
    """Writes `state` and a JSON object to the folder `path`, in place of what it held before."""
    from orbax.checkpoint import v1 as ocp

    _silence_orbax()
    ocp.save(path, state, custom_metadata=dict(metadata), overwrite=True)


def check_saved(path: str, state: Any) -> None:
    """Reads back what `save` wrote. With several processes, only the first calls it.

    Orbax opens every array, and types and shapes are compared. With one process, a state that is
    not large is also compared bit by bit.

    Raises:
      ValueError: the arrays on disk are not those of `state`.
    """
    from orbax.checkpoint import v1 as ocp

    saved = _kinds(ocp.metadata(path).metadata)
    if difference := shape_difference(saved, _kinds(state), ("on disk", "in the run")):
        raise ValueError(f"what was written is not what is read back: {difference}")
    if jax.process_count() > 1 or tree_bytes(state) > _READ_BACK:  # `load` waits for all processes
        return
    for name, was, now in zip(leaf_names(state), *map(jax.tree.leaves, (state, load(path, state)))):
        if np.asarray(was).tobytes() != np.asarray(now).tobytes():
            raise ValueError(f"what was written is not what is read back: {name} has other values")


def _kinds(tree: Any) -> dict[str, str]:
    """Types and shapes by name, such as {'hidden_0/kernel': 'float32[64, 16]'}."""
    kind = lambda leaf: f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
    return dict(zip(leaf_names(tree), map(kind, jax.tree.leaves(tree))))


def read_metadata(path: str) -> Any:
    """The JSON object that `save` wrote. Raises an error of any type if there is none."""
    from orbax.checkpoint import v1 as ocp

    return ocp.metadata(path).custom_metadata


def load(path: str, like: Any) -> Any:
    """The state that `save` wrote, with the shapes, dtypes and shardings of `like`.

    All processes call it. Raises an error of any type if there is no such state.
    """
    from orbax.checkpoint import v1 as ocp

    def abstract(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return ocp.load(path, jax.tree.map(abstract, like))


def _is_of_orbax(trace: types.TracebackType | None) -> bool:
    return any("orbax" in frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))


def _is_not_from_orbax(record: logging.LogRecord) -> bool:
    """Whether a log record is to be shown: anything but an error of orbax."""
    raised = record.exc_info[2] if record.exc_info else None
    return record.levelno < logging.ERROR or not (
        "orbax" in record.pathname or _is_of_orbax(raised)
    )


@functools.cache
def _silence_orbax() -> None:
    """Stops orbax and its threads from logging errors that it also raises."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_from_orbax)
    hook = sys.unraisablehook

    def without_closed_loops(raised: Any) -> None:
        """Hides the errors of threads that outlive a failed save and its event loop."""
        if "Event loop is closed" not in str(raised.exc_value):
            hook(raised)

    sys.unraisablehook = without_closed_loops
