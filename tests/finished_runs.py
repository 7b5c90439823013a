"""Finished runs by hand: in memory, and as the files of a workdir."""

import json

from ist_jax.cli.records.results import Run


def finished(
    config=None,
    scores=(0.5, 0.9),
    *,
    metric="accuracy",
    best="max",
    unit=None,
    validation=None,
    **columns,
):
    """A finished run that was evaluated once for every score.

    Args:
      config: its fields; by default those of IST with two subnetworks.
      scores: values of the metric on test data.
      metric: its name.
      best: "max" or "min".
      unit: of the metric; None: the record does not say, as those of earlier versions.
      validation: values on validation data; by default those on test data.
      columns: further columns of the curve, or other values of the standard ones.
    """
    config = {"method": "ist", "seed": 0, "num_subnets": 2} | (config or {})
    rounds = list(range(1, len(scores) + 1))
    validation = list(validation or scores)
    curve = {
        "round": rounds,
        "samples_seen": [100 * round for round in rounds],
        "seconds": [1.0 * round for round in rounds],
        "bytes_per_device": [1e6 * round for round in rounds],
        f"test/{metric}": list(scores),
        f"validation/{metric}": validation,
    } | {name.replace("__", "/"): list(column) for name, column in columns.items()}
    chosen = validation.index(max(validation) if best == "max" else min(validation))
    summary = _summary(curve, metric, best, chosen)
    if unit is not None:
        summary["metrics"] = {metric: {"best": best, "unit": unit}}
    return Run(config, curve, summary, {"git_revision": "a revision"})


def _summary(curve, metric, best, chosen):
    def at(i):
        return {
            "round": curve["round"][i],
            "validation": {metric: curve[f"validation/{metric}"][i]},
            "test": {metric: curve[f"test/{metric}"][i]},
        }

    last = {name: curve[name][-1] for name in ("samples_seen", "seconds", "bytes_per_device")}
    return {
        "status": "finished",
        "rounds": curve["round"][-1],
        **last,
        "selection": {"metric": metric, "best": best},
        "last": at(-1),
        "selected": at(chosen),
        "compile_seconds": 2.0,
        "failed_workers": 0,
        "simulated_seconds": curve.get("simulated_seconds", [None])[-1],
        "parameters": {"model": 4000, "per_device": 1500},
        "bytes_per_sync_per_device": {"arithmetic": 1e6},
        "memory_bytes_per_device": {"peak": 3e6, "state": 2e6},
    }


def write_workdir(folder, run):
    """Writes the records of `run` as a run leaves them: a row per round, evaluated or not."""
    folder.mkdir(parents=True)
    content = {"config": run.config, "environment": run.environment}
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "summary.json").write_text(json.dumps(run.summary))
    rows = [{"round": 0, "samples_seen": 0, "train": {"loss": 2.0}}]  # a round without evaluation
    for index in range(len(run.curve["round"])):
        row = {}
        for name, column in run.curve.items():
            split, _, metric = name.rpartition("/")
            (row.setdefault(split, {}) if split else row)[metric] = column[index]
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
