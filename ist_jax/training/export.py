"""Exported models: a folder with model.json (data, no code) and variables.npz (no pickles)."""

import dataclasses
import json
import os
import pathlib
import tempfile
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from ist_jax.core.model import Stats
from ist_jax.core.types import Params
from ist_jax.models import MODELS, STATS
from ist_jax.models.linen import LinenModel
from ist_jax.training.files import flush_folder, json_text, with_path, write_whole

_OF_EVERY_MODULE = ("parent", "name")  # fields that Flax adds


class ExportError(ValueError):
    """A model cannot be exported, or a folder holds no exported model."""


class Exported(NamedTuple):
    """An exported model: `model.apply(variables, x)` are the outputs for x.

    They are logits. With regression, they are targets minus `target_mean`, divided by `target_std`,
    which are beside the mean and deviation of inputs in `about["data"]["spec"]`.

    Attributes:
      model: the Flax module.
      variables: {'params': ...}, and 'norm_stats' if normalisation statistics were measured.
      about: the JSON object that was written with the model.
    """

    model: nn.Module
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


def write(
    folder: str | pathlib.Path,
    model: LinenModel,
    params: Params,
    stats: Stats | None,
    about: dict[str, Any],
) -> None:
    """Writes a model whose class is in `ist_jax.models.MODELS` to a new folder.

    Args:
      folder: new; it appears complete or not at all.
      model: the model.
      params: its parameters.
      stats: its normalisation statistics; None if it has none.
      about: a JSON object to keep with the model.

    Raises:
      ExportError: the folder exists, the model is of a class that cannot be exported, or an array
        is not read back as it was.
      OSError: the folder cannot be written.
    """
    folder, module = pathlib.Path(folder).expanduser(), model.module
    check_new(folder)
    names = {kind: name for name, kind in MODELS.items()}
    if type(module) not in names:
        raise ExportError(
            f"an exported model is one of {', '.join(MODELS)}, not {type(module).__name__}: "
            "save its variables yourself"
        )
    fields = {
        f.name: _to_json(getattr(module, f.name))
        for f in dataclasses.fields(module)
        if f.name not in _OF_EVERY_MODULE
    }
    content = {"model": {"name": names[type(module)], "fields": fields}, "about": about}
    variables = jax.device_get(variables_of(params, stats))
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
        _check_written(unfinished, variables)
        unfinished.replace(folder)
        flush_folder(folder.parent)


def _check_written(folder: pathlib.Path, variables: dict[str, Any]) -> None:
    """Raises ExportError unless `read` returns the variables that were written."""
    flat = lambda tree: cast(dict[str, Any], flatten_dict(tree, sep="/"))
    written, back = flat(variables), flat(read(folder).variables)
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


def read(folder: str | pathlib.Path) -> Exported:
    """The model that `write` wrote.

    Raises:
      ExportError: the folder holds no model, or a damaged one.
    """
    folder = pathlib.Path(folder).expanduser()
    try:
        content = json.loads((folder / "model.json").read_text())
        described, about = content["model"], dict(content["about"])
        model = MODELS[described["name"]](
            **{name: _from_json(field) for name, field in described["fields"].items()}
        )
        with np.load(folder / "variables.npz", allow_pickle=False) as arrays:
            variables = unflatten_dict({name: arrays[name] for name in arrays.files}, sep="/")
    except Exception as error:  # damaged files raise all kinds of errors
        raise ExportError(
            f"{folder} holds no exported model ({type(error).__name__}: {error})"
        ) from error
    return Exported(model, variables, about)
