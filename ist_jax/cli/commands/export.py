"""Exports a trained model, or one of its subnetworks.

    ist-jax export --workdir DIR --out DIR2 [--subnet K] [--data-dir DIR3]

Writes model.json (class, widths, origin, metrics) and variables.npz to DIR2.
`ist_jax.export.read("DIR2")` returns the Flax model and its variables; `ist-jax evaluate --model
DIR2` evaluates it. The run's data are read again, from --data-dir if they have moved. A config file
that built parts of the run builds them again; --builders names it if it has moved. If the model's
class is not one of `ist_jax.models`, read it by `read("DIR2", model)`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from ist_jax.cli.builders import load_dataset
from ist_jax.cli.config import ConfigError, custom, replace
from ist_jax.cli.config.parsing import parse
from ist_jax.cli.config.types import PathText
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.methods import splits
from ist_jax.cli.records.record import as_json
from ist_jax.cli.records.restored import Restored, restore
from ist_jax.core.model import Model, Stats
from ist_jax.core.trees import tree_size
from ist_jax.core.types import Batch, Params
from ist_jax.data import Dataset
from ist_jax.data.plausible import sampled_inputs, summary
from ist_jax.methods import State
from ist_jax.methods.predictor import Predictor, measure_stats, model_predictor
from ist_jax.training import export
from ist_jax.training.environment import git_revision
from ist_jax.training.evaluation import evaluate_model, whole_batch


@dataclasses.dataclass(frozen=True)
class ExportFlags:
    """The flags of `ist-jax export`."""

    workdir: PathText = ""
    """Workdir of the run."""
    out: PathText = ""
    """A new folder for the model."""
    subnet: int | None = None
    """Number of a subnetwork, from 0; by default, the full model is exported."""
    data_dir: str = ""
    """Where the run's data are now, if they have moved."""
    builders: PathText = ""
    """Where the config file that builds parts of the run is now, if it has moved."""


def _dataset(run: Restored, data_dir: str) -> Dataset:
    config = run.experiment.config
    if data_dir:
        config = replace(config, data=dict(dir=data_dir))
    dataset = load_dataset(config)
    if dataset.fingerprint != run.fingerprint:
        raise ConfigError(
            f"data.dir={config.data.dir!r} holds other data than the run was trained on: "
            "give --data-dir"
        )
    return dataset


def _check(run: Restored, subnet: int | None) -> None:
    config, workers = run.experiment.config, run.method.num_workers
    if subnet is None:
        if config.method == "ensemble":
            raise ConfigError(
                f"an ensemble is {workers} models, and has no full model: choose one with --subnet"
            )
        return
    if not splits(config) or run.in_other_phase:
        raise ConfigError(
            f"--subnet {subnet}: this run ended training full models; leave --subnet out"
        )
    rules = run.experiment.decomposition.batch_rules
    if any(axes is not None and any(axes) for _, axes in rules):
        raise ConfigError(
            f"--subnet {subnet}: with model.split_input or batch rules, a subnetwork reads only a "
            "share of the inputs; leave --subnet out"
        )
    if not 0 <= subnet < workers:
        raise ConfigError(f"--subnet {subnet} is from 0 to {workers - 1}")


def chosen(run: Restored, subnet: int | None, dataset: Dataset) -> tuple[Model, Predictor]:
    """The full model, or subnetwork `subnet` of the last partition, and its predictor."""
    experiment, config, sample = run.experiment, run.experiment.config, None
    split, task = experiment.decomposition, experiment.task
    model = split.full if subnet is None else split.subnet
    if config.model.eval_norm == "train":
        calibration = dataset.calibration(config.calibration_examples)
        sample = whole_batch(task, {**dataset.arrays("train"), **calibration})
    if subnet is None:

        def full(state: State, sample: Batch | None) -> tuple[Params, Stats | None]:
            params = run.method.params(state)
            return params, measure_stats(model, task, params, sample)

        return model, model_predictor(model, task, *jax.jit(full)(run.state, sample))
    of_subnets = jax.jit(functools.partial(run.method.predictor, subnets=True))
    predictor_S = of_subnets(run.state, sample)
    params, stats = jax.tree.map(
        lambda leaf_S: leaf_S[subnet], (predictor_S.params, predictor_S.stats)
    )
    return model, model_predictor(model, task, params, stats)


def _about(
    run: Restored,
    workdir: str | pathlib.Path,
    subnet: int | None,
    params: Params,
    dataset: Dataset,
) -> dict[str, Any]:
    units: dict[str, list[int]] = {}
    rows = sampled_inputs(dataset, "train")
    if subnet is not None:
        indices = run.state.indices.items()
        units = {group: index_SxM[subnet].tolist() for group, index_SxM in indices}
    return {
        "workdir": str(workdir),
        "round": run.round,
        "method": run.experiment.config.method,
        "subnet": subnet,
        "units": units,
        "parameters": tree_size(params),
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "spec": dataset.spec._asdict(),
            "inputs": None if rows is None else summary(rows)._asdict(),
        },
        "eval_norm": run.experiment.config.model.eval_norm,
        "eval_batch_size": run.experiment.config.eval_batch_size,
        "git_revision": git_revision(),
        "builders": custom.digests_of(run.experiment.config),
        "config": as_json(run.experiment.config),
    }


def write(
    workdir: str | pathlib.Path,
    out: str,
    subnet: int | None = None,
    data_dir: str = "",
    builders: str = "",
) -> dict[str, Any]:
    """Exports a model and evaluates it; returns what model.json says about the model.

    Raises:
      ConfigError: there is no run in `workdir`, there is no such subnetwork, or `out` exists.
      DataError: the data cannot be read.
    """
    try:
        export.check_new(out)
    except export.ExportError as error:
        raise ConfigError(f"--out {error}") from error
    run = restore(workdir, builders)
    _check(run, subnet)
    dataset = _dataset(run, data_dir)
    model, predictor = chosen(run, subnet, dataset)
    about = _about(run, workdir, subnet, predictor.params, dataset)
    task, size = run.experiment.task, about["eval_batch_size"]
    about["selection"] = task.selects._asdict()
    about["metrics"] = {
        split: evaluate_model(predictor, task, dataset, split, size)
        for split in ("validation", "test")
    }
    try:
        export.write(out, model, predictor.params, predictor.stats, about)
    except export.ExportError as error:
        raise ConfigError(f"--out {error}") from error
    return about


def _export(argv: Sequence[str]) -> None:
    flags = parse(ExportFlags, argv, __doc__)
    for name in ("workdir", "out"):
        if not getattr(flags, name):
            raise ConfigError(f"--{name} DIR is missing; see --help")
    about = write(flags.workdir, flags.out, flags.subnet, flags.data_dir, flags.builders)
    what = "full model" if flags.subnet is None else f"subnetwork {flags.subnet}"
    metric = about["selection"]["metric"]
    print(
        f"{pathlib.Path(flags.out)}: {what}, {about['parameters']:,} parameters, "
        f"test {metric} {about['metrics']['test'][metric]:.4f}"
    )


def main(argv: Sequence[str]) -> int:
    """The exit status of the command line `argv`, the command's name first."""
    return exit_status(lambda: _export(argv))
