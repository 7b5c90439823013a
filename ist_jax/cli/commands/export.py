"""Writes a trained model, or one of its subnetworks, as a model of its own:

    python -m ist_jax.cli.commands.export --workdir=DIR [--subnet=K] --out=DIR2 [--data_dir=DIR3]

DIR2 gets model.json (class, widths, origin, accuracies) and variables.npz; `ist_jax.training.export.read(DIR2)` gives the Flax
model and its variables back, `python -m ist_jax.cli.commands.evaluate --model=DIR2` scores it. The run's data are read again, from
--data_dir if they have moved. Exit status as of ist_jax.cli.commands.run.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from ist_jax.cli import builders
from ist_jax.cli.config import ConfigError
from ist_jax.cli.exit_status import Parser, exit_status
from ist_jax.cli.records.record import as_json, git_revision
from ist_jax.cli.records.restored import Restored, restore
from ist_jax.core.model import Stats
from ist_jax.core.trees import tree_size
from ist_jax.core.types import Batch, Params
from ist_jax.data import Dataset
from ist_jax.methods import State
from ist_jax.methods.predictor import Predictor, measure_stats, model_predictor
from ist_jax.models.linen import LinenModel
from ist_jax.training import export
from ist_jax.training.evaluation import evaluate_model, whole_batch


def _dataset(run: Restored, data_dir: str) -> Dataset:
    config = run.config
    if data_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, dir=data_dir))
    dataset = builders.dataset(config)
    if dataset.fingerprint != run.fingerprint:
        raise ConfigError(
            f"data.dir={config.data.dir!r} holds other data than the run was trained on: give --data_dir"
        )
    return dataset


def _check(run: Restored, subnet: int | None) -> None:
    method, workers = run.config.method, run.algorithm.num_workers
    if subnet is None and method == "ensemble":
        raise ConfigError(
            f"an ensemble is {workers} models and no whole one: choose one with --subnet"
        )
    if subnet is not None and (method not in ("ist", "ensemble") or run.in_other_phase):
        raise ConfigError(
            f"--subnet={subnet}: this run ended training whole models: leave --subnet out"
        )
    if subnet is not None and run.config.model.split_input:
        raise ConfigError(
            f"--subnet={subnet}: with model.split_input a subnetwork reads a share of the inputs: leave --subnet out"
        )
    if subnet is not None and not 0 <= subnet < workers:
        raise ConfigError(f"--subnet={subnet} is from 0 to {workers - 1}")


def chosen(run: Restored, subnet: int | None, dataset: Dataset) -> tuple[LinenModel, Predictor]:
    """The full model, or subnetwork `subnet` of the last round's partition, and its predictor."""
    on_sample = run.config.model.eval_norm == "train"
    sample = (
        whole_batch(run.task, dataset.arrays("train") | dataset.calibration(run.config.eval_sample))
        if on_sample
        else None
    )
    if subnet is None:
        model = run.split.full

        def full(state: State, sample: Batch | None) -> tuple[Params, Stats | None]:
            params = run.algorithm.params(state)
            return params, measure_stats(model, run.task, params, sample)

        return model, model_predictor(model, run.task, *jax.jit(full)(run.state, sample))
    model = run.split.subnet
    of_subnets = jax.jit(functools.partial(run.algorithm.predictor, subnets=True))
    predictor_S = of_subnets(run.state, sample)
    params, stats = jax.tree.map(
        lambda leaf_S: leaf_S[subnet], (predictor_S.params, predictor_S.stats)
    )
    return model, model_predictor(model, run.task, params, stats)


def _about(
    run: Restored, workdir: str, subnet: int | None, params: Params, dataset: Dataset
) -> dict[str, Any]:
    held = (
        {}
        if subnet is None
        else {group: index_SxM[subnet].tolist() for group, index_SxM in run.state.indices.items()}
    )
    return {
        "workdir": str(workdir),
        "round": run.round,
        "method": run.config.method,
        "subnet": subnet,
        "units": held,
        "parameters": tree_size(params),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "spec": dataset.spec._asdict(),
        },
        "eval_norm": run.config.model.eval_norm,
        "eval_batch_size": run.config.eval_batch_size,
        "git_revision": git_revision(),
        "config": as_json(run.config),
    }


def write(workdir: str, out: str, subnet: int | None = None, data_dir: str = "") -> dict[str, Any]:
    """Exports and scores; returns what model.json says about the model.

    Raises:
      ConfigError: no run in `workdir`, no such subnetwork, or `out` is not empty.
      DataError: the data cannot be read.
    """
    try:
        export.check_new(out)
    except export.ExportError as error:
        raise ConfigError(f"--out={error}") from error
    run = restore(workdir)
    _check(run, subnet)
    dataset = _dataset(run, data_dir)
    model, predictor = chosen(run, subnet, dataset)
    about = _about(run, workdir, subnet, predictor.params, dataset)
    size = about["eval_batch_size"]
    for part in ("validation", "test"):
        about[f"{part}_accuracy"] = evaluate_model(predictor, run.task, dataset, part, size)[
            "accuracy"
        ]
    export.write(out, model, predictor.params, predictor.stats, about)
    return about


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="ist_jax.cli.commands.export", description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--out", required=True, help="a new folder")
    parser.add_argument(
        "--subnet", type=int, help="number of a subnetwork, from 0; without it the whole model"
    )
    parser.add_argument(
        "--data_dir", default="", help="where the run's data lie now, if they have moved"
    )

    def act() -> None:
        given = parser.parse_args(argv[1:])
        about = write(given.workdir, given.out, given.subnet, given.data_dir)
        what = "whole model" if given.subnet is None else f"subnetwork {given.subnet}"
        print(
            f"{pathlib.Path(given.out)}: {what}, {about['parameters']:,} parameters, test accuracy {about['test_accuracy']:.4f}"
        )

    return exit_status(act)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
