"""Exported models: a folder with model.json (data, no code) and variables.npz (no pickles)."""

import contextlib
import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ist_jax.core.model import Stats
from ist_jax.core.scaled import ScaledModel
from ist_jax.core.types import Params
from ist_jax.models import MODELS, STATS
from ist_jax.models.linen import LinenModel
from ist_jax.training.files import flush_folder, json_text, with_path, write_whole

_OF_EVERY_MODULE = ("parent", "name")  # fields that Flax adds


class ExportError(ValueError):
    """A model cannot be exported, or a folder holds no exported model."""


class Exported(NamedTuple):
    """An exported model: `model.apply(variables, x)` are the outputs for x.

    Outputs are logits. For regression, they are (target - target_mean) / target_std, with both
    values in `about["data"]["spec"]`.

    Attributes:
      model: the Flax module, or the `Model` that `read` was given.
      variables: {'params': ...}, and 'norm_stats' if normalisation statistics were measured.
      about: the JSON object that was written with the model.
    """

    model: Any
    variables: dict[str, Any]
    about: dict[str, Any]

    @property
    def params(self) -> Params:
        return self.variables["params"]

    @property
    def stats(self) -> Stats | None:
        """The normalisation statistics; None if they were not measured."""
        return self.variables.get(STATS)


def variables_of(params: Params, stats: Stats | None) -> dict[str, Any]:
    """The variables of a Flax module."""
    return {"params": params} | ({STATS: stats} if stats else {})


def _to_json(value: Any) -> Any:
    """A field of a Flax module for JSON: a dtype is written by its name."""
    try:
        return {"dtype": jnp.dtype(value).name} if isinstance(value, type | np.dtype) else value
    except TypeError as error:
        raise ExportError(
            f"an exported model's fields are plain values, not {value!r}: save its variables "
            "yourself"
        ) from error


def _from_json(field: Any) -> Any:
    if isinstance(field, dict):
        return jnp.dtype(field["dtype"]).type
    return tuple(field) if isinstance(field, list) else field


def _described(module: Any) -> dict[str, Any]:
    """What `read` needs to rebuild a module of `MODELS`; for any other model, its class."""
    names = {kind: name for name, kind in MODELS.items()}
    if type(module) not in names:
        return {"class": type(module).__name__}
    fields = {
        f.name: _to_json(getattr(module, f.name))
        for f in dataclasses.fields(module)
        if f.name not in _OF_EVERY_MODULE
    }
    return {"name": names[type(module)], "fields": fields}


def write(
    folder: str | pathlib.Path,
    model: Any,
    params: Params,
    stats: Stats | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model to a new folder.

    Args:
      folder: new; it appears complete or not at all.
      model: a Linen module or an `ist_jax.core.model.Model`. For a decomposition, give its `full`,
        which has the factors of `decompose(scale=...)`; your own module has not. If the class is
        not one of `ist_jax.models.MODELS`, only variables are written, and `read` needs the model.
      params: its parameters, in nested dicts. Factors on its sums are multiplied into them.
      stats: its normalisation statistics; None if it has none.
      about: a JSON object to keep with the model.

    Raises:
      ExportError: the folder exists, the parameters are not nested dicts, a field of the model is
        not a plain value, or an array changes when it is read back.
      OSError: the folder cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    check_new(folder)
    if isinstance(model, ScaledModel):
        params = model.fold(params)
    module = _without_factors(model)
    content = {"model": _described(module), "about": dict(about or {})}
    variables = jax.device_get(variables_of(params, stats))
    _check_nested(variables)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
        unfinished = pathlib.Path(made) / folder.name
        unfinished.mkdir()
        with with_path(folder):
            with (unfinished / "variables.npz").open("wb") as file:
                np.savez(file, **cast(dict[str, Any], flatten_dict(variables, sep="/")))
                file.flush()
                os.fsync(file.fileno())
            write_whole(unfinished / "model.json", json_text(content, indent=2) + "\n")
        _check_written(unfinished, module, variables)
        unfinished.replace(folder)
        flush_folder(folder.parent)


def _without_factors(model: Any) -> Any:
    """The module of a model. Exported parameters include the factors on its sums."""
    if isinstance(model, ScaledModel):
        model = model.model
    return model.module if isinstance(model, LinenModel) else model


def _check_nested(variables: Any) -> None:
    """Raises ExportError if an array is not in nested dicts with names as keys."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if not all(isinstance(getattr(entry, "key", None), str) for entry in path):
            raise ExportError(
                "exported parameters are nested dicts with names as keys, but one is at "
                f"{jax.tree_util.keystr(path)} ({type(leaf).__name__}): save them yourself"
            )


def _check_written(folder: pathlib.Path, module: Any, variables: dict[str, Any]) -> None:
    """Raises ExportError unless `read` returns the variables that were written."""
    flat = lambda tree: cast(dict[str, Any], flatten_dict(tree, sep="/"))
    written, back = flat(variables), flat(read(folder, module).variables)
    bits = lambda leaf: (leaf.dtype, leaf.shape, np.asarray(leaf).tobytes())
    for name, leaf in written.items():
        if name not in back or bits(leaf) != bits(back[name]):
            raise ExportError(
                f"an exported array is read back as it was, and {name} ({leaf.dtype}) is not: "
                "save the variables yourself"
            )


def check_new(folder: str | pathlib.Path) -> None:
    """Raises ExportError if `folder` exists."""
    if pathlib.Path(folder).expanduser().exists():
        raise ExportError(f"{folder} exists already: export to a new folder")


def read_about(folder: str | pathlib.Path) -> dict[str, Any]:
    """What was written about a model, without its arrays. Raises ExportError like `read`."""
    with _as_export_error(folder):
        return dict(_content(folder)["about"])


def read(folder: str | pathlib.Path, model: Any = None) -> Exported:
    """The model that `write` wrote.

    Args:
      folder: with model.json and variables.npz.
      model: the Linen module or `Model`, if its class is not one of `ist_jax.models.MODELS`. The
        exported parameters already include factors of `decompose(scale=...)`.

    Raises:
      ExportError: the folder holds no model or a damaged one, or `model` is needed and missing.
    """
    with _as_export_error(folder):
        content = _content(folder)
        described, about = content["model"], dict(content["about"])
        if model is None and "class" in described:
            raise ExportError(
                f"{folder} holds the variables of a model of class {described['class']!r}, which "
                "ist_jax.models does not have: pass the model, read(folder, model)"
            )
        if "class" not in described:
            model = MODELS[described["name"]](
                **{name: _from_json(field) for name, field in described["fields"].items()}
            )
        path = pathlib.Path(folder).expanduser() / "variables.npz"
        with np.load(path, allow_pickle=False) as arrays:
            variables = unflatten_dict({name: arrays[name] for name in arrays.files}, sep="/")
    return Exported(_without_factors(model), variables, about)


def _content(folder: str | pathlib.Path) -> Any:
    return json.loads((pathlib.Path(folder).expanduser() / "model.json").read_text())


@contextlib.contextmanager
def _as_export_error(folder: str | pathlib.Path) -> Iterator[None]:
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # damaged files raise all kinds of errors
        raise ExportError(
            f"{folder} holds no exported model ({type(error).__name__}: {error})"
        ) from error
