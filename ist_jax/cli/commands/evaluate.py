"""Evaluates an exported model on a data set.

    ist-jax evaluate --model DIR [--name SOURCE] [--dir DIR] [--dataset NAME] [--split test]

SOURCE is a value of data.name; by default, the source that the model was trained on. Inputs are
normalised as in training. Other inputs must be on the scale of the training inputs; graphs are not
compared. If functions of a config file built the model, task or data, name that file by --builders:
for safety, an exported model never names code to run.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from ist_jax.cli.builders import load_dataset, make_decomposition, make_task
from ist_jax.cli.config import Config, ConfigError, custom, from_record, replace
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.records.restored import on_this_machine
from ist_jax.core.errors import first_line
from ist_jax.core.model import Stats
from ist_jax.core.types import Batch, Indices, Params
from ist_jax.data import SOURCES, Dataset, Spec
from ist_jax.data.plausible import Summary, compare, sampled_inputs, summary
from ist_jax.methods.predictor import Predictor, model_predictor
from ist_jax.models import as_model
from ist_jax.training import export
from ist_jax.training.evaluation import evaluate_model


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """The flags of `ist-jax evaluate`."""

    model: PathText = ""
    """Folder that `ist-jax export` wrote."""
    name: str = ""
    """Source of the data; by default, that of the training data."""
    dir: str = ""
    """Folder or file of the data."""
    dataset: str = ""
    """Which of the source's data sets."""
    split: Literal["test", "validation", "train"] = "test"
    """Split of the data."""
    builders: PathText = ""
    """The config file whose functions built the model, task or data."""


def _without_one_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(28, 28) for (28, 28, 1): grey images of some sources have a channel axis."""
    return shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape


def _check(spec: Spec, dataset: Dataset) -> None:
    if dataset.spec.task != spec.task:
        raise ConfigError(
            f"the model is for {spec.task}, and {dataset.name} is {dataset.spec.task}: choose "
            "other data"
        )
    if _without_one_channel(dataset.spec.example_shape) != _without_one_channel(spec.example_shape):
        raise ConfigError(
            f"the model takes inputs of shape {spec.example_shape}, and {dataset.name} has "
            f"{dataset.spec.example_shape}: choose other data"
        )
    if dataset.spec.dtype != spec.dtype:
        raise ConfigError(
            f"the model takes {spec.dtype} inputs, and {dataset.name} has {dataset.spec.dtype}: "
            "choose other data"
        )
    if dataset.spec.vocabulary != spec.vocabulary:
        raise ConfigError(
            f"the model reads the characters {spec.vocabulary!r}, and {dataset.name} has "
            f"{dataset.spec.vocabulary!r}: choose other data, or train with data.vocabulary=bytes"
        )
    has_targets = spec.task in ("regression", "multi_label")  # a class or token may be missing
    if dataset.num_classes > spec.num_classes or (
        dataset.num_classes < spec.num_classes and has_targets
    ):
        raise ConfigError(
            f"the model has {spec.num_classes} outputs, and {dataset.name} needs "
            f"{dataset.num_classes}: choose other data"
        )


def _compare(trained: Summary | None, data: Dataset, split: str) -> list[str]:
    """Warnings about inputs that differ from the training inputs.

    Graphs are not compared, nor are integers that stand for tokens or categories.

    Raises:
      DataError: the inputs are on a different scale.
    """
    rows, name = sampled_inputs(data, split), f"{data.name}, {split}"
    if trained is None or rows is None or data.dtype != "float32":  # codes have no scale
        return []
    return compare(trained, summary(rows), name, name, others="these")


def _check_builders(model: str, config: Config, digests: Mapping[str, str]) -> None:
    """Warns if files that built parts of the run differ from their recorded `digests`."""
    now = custom.digests_of(config)
    if changed := sorted(name for name in digests if digests[name] != now.get(name)):
        print(
            f"warning: {model} was trained with another {' and '.join(changed)} than "
            f"--builders {config.builders}",
            file=sys.stderr,
        )


def _config_of(model: str, about: Mapping[str, Any], builders: str) -> Config:
    """The config in model.json, with the code that the user names. Raises ConfigError."""
    recorded, digests = from_record(about["config"], "model.json"), dict(about.get("builders", {}))
    if digests and not builders:
        raise ConfigError(
            f"functions of {next(iter(digests))} build its model, task or data: give that file, "
            "--builders FILE"
        )
    config = on_this_machine(replace(recorded, builders=builders))
    _check_builders(model, config, digests)
    return config


def _read(model: str, builders: str = "") -> tuple[export.Exported, Config, Spec, Summary | None]:
    """The exported model, its config, and the spec and inputs of the data it was trained on.

    Raises:
      ConfigError: there is no exported model in the folder `model`, or it is damaged; or functions
        of a config file built it, and `builders` does not name that file.
    """
    if (pathlib.Path(model) / "config.json").is_file():
        raise ConfigError(
            f"--model {model} is the workdir of a run: export its model first, "
            f"ist-jax export --workdir {model} --out DIR"
        )
    try:
        about = export.read_about(model)
        if not about:
            raise ConfigError(
                "it was exported from Python, without a record of its data: evaluate it in Python"
            )
        spec = Spec.from_json(about["data"]["spec"])
        config = _config_of(model, about, builders)
        decomposition = make_decomposition(config, spec)
        of_subnet = about["subnet"] is not None
        built = decomposition.subnet if of_subnet else decomposition.full
        exported = export.read(model, built)
        _check_variables(exported, decomposition.example)
        make_task(config, spec)  # raises if the spec names no known task
        inputs = exported.about["data"].get("inputs")  # None: a graph, or an older version
        return exported, config, spec, None if inputs is None else Summary.from_json(inputs)
    except ConfigError as error:
        raise ConfigError(f"--model {model}: {error}") from error
    except Exception as error:  # model.json may say anything
        raise ConfigError(
            f"--model {model}: {type(error).__name__}: {first_line(error)}"
        ) from error


def score(
    model: str,
    name: str = "",
    directory: str = "",
    dataset: str = "",
    split: str = "test",
    builders: str = "",
) -> dict[str, Any]:
    """{name: value} of the task's metrics of an exported model on one split of a data set.

    Arguments are those of `EvaluateFlags`. The data are split as in training. Warnings about the
    data are printed to standard error.

    Raises:
      ConfigError: there is no exported model, or it does not fit the data.
      DataError: the data cannot be read, or are on a different scale from the training data.
    """
    exported, config, spec, inputs = _read(model, builders)
    reads_files = lambda name: name in SOURCES and SOURCES[name].reads != "nothing"
    if not name:
        name, dataset = config.data.name, dataset or config.data.dataset
        if reads_files(name) and not directory:
            raise ConfigError(
                f"--model {model} was trained on {name}: give --dir, the folder or file of the data"
            )
    elif reads_files(name) and not directory:
        raise ConfigError(f"--name {name} needs --dir, the {SOURCES[name].reads} it reads")
    if name == custom.CUSTOM:
        directory = directory or config.data.dir
    place = dict(name=name, dir=directory, dataset=dataset)
    data = load_dataset(replace(config, data=place))
    _check(spec, data)
    is_known = data.fingerprint == exported.about["data"].get("fingerprint")
    for warning in (*data.warnings, *([] if is_known else _compare(inputs, data, split))):
        print(f"warning: {warning}", file=sys.stderr)
    task = make_task(config, spec.reshaped(data.spec.example_shape))  # with the data's shape
    predictor = model_predictor(as_model(exported.model), task, exported.params, exported.stats)
    if data.spec.example_shape != spec.example_shape:
        predictor = _reshaping(predictor, spec.example_shape)
    return evaluate_model(predictor, task, data, split, config.eval_batch_size)


def _reshaping(predictor: Predictor, example_shape: tuple[int, ...]) -> Predictor:
    """`predictor` for inputs that have the right size, but another shape."""
    predict = predictor.function

    def reshaped(params: Params, stats: Stats | None, indices: Indices, batch: Batch) -> Any:
        x = batch["x"].reshape(-1, *example_shape)
        return predict(params, stats, indices, {**batch, "x": x})

    return dataclasses.replace(predictor, function=reshaped)


def _check_variables(exported: export.Exported, example: Any) -> None:
    """Raises ConfigError if parameters and statistics do not have the shapes of the model's."""
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), dict(tree))
    model = as_model(exported.model)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), example), None
    if exported.about["eval_norm"] == "train":
        stats = jax.eval_shape(model.measure, params, example)
    wanted = export.variables_of(params, stats)
    if kinds(exported.variables) != kinds(wanted):
        raise ConfigError("its arrays are not those of its model: export it again")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(exported.variables)):
        raise ConfigError("its arrays hold nan or infinity: export it again")


def evaluate(argv: Sequence[str]) -> None:
    """Evaluates and prints. Raises ConfigError or DataError."""
    flags = parse(EvaluateFlags, argv, __doc__)
    if not flags.model:
        raise ConfigError("--model DIR is missing: the folder that ist-jax export wrote")
    metrics = score(*dataclasses.astuple(flags))
    print(flags.split, ", ".join(f"{name} {metrics[name]:.4f}" for name in sorted(metrics)))


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: evaluate(argv))
