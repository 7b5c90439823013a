"""Scores an exported model on a data set:

    python -m ist_jax.cli.commands.evaluate --model=DIR [--name=SOURCE] [--dir=DIR] [--dataset=NAME] [--split=test]

SOURCE is a name of data.SOURCES (default: the one that the model was trained on). Inputs are normalised as in training. Exit
status as of ist_jax.cli.commands.run.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ist_jax import data
from ist_jax.cli import builders
from ist_jax.cli.config import ConfigError, resolve
from ist_jax.cli.config_files import one_line
from ist_jax.cli.exit_status import Parser, exit_status
from ist_jax.cli.records.restored import on_this_machine
from ist_jax.data import EMBEDDED, Dataset, Spec
from ist_jax.methods.predictor import model_predictor
from ist_jax.models.linen import LinenModel
from ist_jax.training import export
from ist_jax.training.evaluation import evaluate_model

SPLITS = ("test", "validation", "train")


def _without_one_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(28, 28) of (28, 28, 1): sources differ in whether grey images have an axis of channels."""
    return shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape


def _check(spec: Spec, dataset: Dataset) -> None:
    if dataset.spec.task != spec.task:
        raise ConfigError(f"the model is for {spec.task}; {dataset.name} is {dataset.spec.task}")
    if _without_one_channel(dataset.spec.example_shape) != _without_one_channel(spec.example_shape):
        raise ConfigError(
            f"the model takes inputs of shape {spec.example_shape}; {dataset.name} has {dataset.spec.example_shape}"
        )
    if dataset.num_classes > spec.num_classes:
        raise ConfigError(
            f"the model knows {spec.num_classes} classes; {dataset.name} has {dataset.num_classes}"
        )


def score(
    model: str, name: str, directory: str = "", dataset: str = "", split: str = "test"
) -> dict[str, Any]:
    """{'accuracy', 'loss'} of the model exported to `model` on a split of a data set.

    Raises:
      ConfigError: no exported model there, or one that does not fit the data.
      DataError: the data cannot be read.
    """
    try:
        exported = export.read(model)
        spec, config = (
            Spec.of(exported.about["data"]["spec"]),
            on_this_machine(resolve(exported.about["config"])),
        )
        _check_variables(exported, builders.decomposition(config, spec).example)
        task, size = builders.task(config, spec), config.eval_batch_size
    except Exception as error:  # model.json may say anything
        raise ConfigError(f"--model={model}: {type(error).__name__}: {one_line(error)}") from error
    if not name:
        name, dataset = config.data.name, dataset or config.data.dataset
        if name not in EMBEDDED and not directory:
            raise ConfigError(
                f"--model={model} was trained on {name}: give --dir, the place of the data to score it on"
            )
    place = dataclasses.replace(
        config.data, name=name, dir=directory, dataset=dataset
    )  # the same data are split as they were
    found = builders.dataset(dataclasses.replace(config, data=place))
    _check(spec, found)
    model = LinenModel(exported.model)
    predictor = model_predictor(model, task, exported.params, exported.stats)
    if found.spec.example_shape != spec.example_shape:
        predict = predictor.function
        shaped = lambda batch: batch | {"x": batch["x"].reshape(-1, *spec.example_shape)}
        reshaping = lambda *given: predict(*given[:-1], shaped(given[-1]))
        predictor = dataclasses.replace(predictor, function=reshaping)
    return evaluate_model(predictor, task, found, split, size)


def _check_variables(exported: export.Exported, example: Any) -> None:
    """Raises ConfigError if the arrays are not those of the model, measured statistics of its norms included."""
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), dict(tree))
    model = LinenModel(exported.model)
    params, stats = jax.eval_shape(model.init, jax.random.key(0), example), None
    if exported.about["eval_norm"] == "train":
        stats = jax.eval_shape(model.measure, params, example)
    wanted = export.variables_of(params, stats)
    if kinds(exported.variables) != kinds(wanted):
        raise ConfigError("its arrays are not those of its model: export it again")
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(exported.variables)):
        raise ConfigError("its arrays hold nan or infinity: export it again")


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="ist_jax.cli.commands.evaluate", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--model", required=True, help="folder that ist_jax.cli.commands.export wrote"
    )
    parser.add_argument(
        "--name",
        default="",
        choices=["", *sorted(data.SOURCES)],
        help="of the data's source; default: that of its training",
    )
    parser.add_argument("--dir", default="", help="folder or file of the data")
    parser.add_argument("--dataset", default="", help="which of the source's data sets")
    parser.add_argument("--split", default="test", choices=SPLITS)

    def act() -> None:
        given = parser.parse_args(argv[1:])
        result = score(given.model, given.name, given.dir, given.dataset, given.split)
        print(f"{given.split} accuracy {result['accuracy']:.4f}, loss {result['loss']:.4f}")

    return exit_status(act)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
