"""From the command line to the records: run, sweep, report."""

import csv
import datetime
import json
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import time

import chex
import jax
import jax.numpy as jnp
import pytest
from cases import also_slowly
from command_line import QUICK

from ist_jax.analysis import machine
from ist_jax.cli.commands import report, run, sweep
from ist_jax.cli.config import METHOD_NAMES, ConfigError
from ist_jax.cli.exit_status import exit_status
from ist_jax.cli.experiment import resolve
from ist_jax.cli.records import results
from ist_jax.cli.records.restored import restore
from ist_jax.training import environment

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "records.md").read_text()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    arguments = [
        "sweep",
        *QUICK,
        f"--workdir={folder}",
        "--grid=method=ist,single",
        "--grid=seed=0,1",
    ]
    assert sweep.main(arguments) == 0
    return folder, arguments


@pytest.mark.slow
def test_a_run_that_diverges_does_not_stop_a_sweep_and_is_named(tmp_path, capsys):
    rates = "--grid=optimizer.learning_rate=0.1,1e8,0.05"
    assert sweep.main(["sweep", *QUICK, "--model.norm=none", rates, f"--workdir={tmp_path}"]) == 1
    finished = {file.parent.name for file in tmp_path.rglob("summary.json")}
    assert finished == {"optimizer.learning_rate=0.1", "optimizer.learning_rate=0.05"}
    said = capsys.readouterr()
    assert (
        f"left out, not finished: {tmp_path}/optimizer.learning_rate=1e8" in said.err
        and "lower the learning rate" in said.err
    )
    assert said.out.count("| ist, optimizer.learning_rate=") == 2


def test_a_run_leaves_its_records(swept):
    workdir = swept[0] / "method=ist,seed=0"
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
        "tensorboard",
        "checkpoints",
    }
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["status"] == "finished"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert (
        rows[-1]["samples_seen"] == summary["samples_seen"]
        and rows[-1]["test"] == summary["last"]["test"]
    )
    config = json.loads((workdir / "config.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|None", str(config["environment"]["git_revision"]))
    assert config["config"]["model.hidden"] == [16, 16] and config["environment"]["packages"]["jax"]
    made_on = config["environment"]["machine"]
    assert made_on["processor"] and made_on["cores"] >= 1 and made_on["memory_gb"] > 0
    assert (
        abs(
            datetime.datetime.fromisoformat(config["environment"]["started"]).timestamp()
            - time.time()
        )
        < 3600
    )
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_everything_that_a_run_records_is_explained(tmp_path):
    options = ["--eval_subnets=True", "--link.bandwidth=1Gbps", f"--workdir={tmp_path}/run"]
    assert run.main(["run", *QUICK, *options]) == 0
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    part = lambda number: set(re.findall(r"`(\w+)`", PAGE.split("\n## ")[number]))
    metrics, every_row, all_of_summary = part(1), part(2), part(3)
    recorded = {name for row in rows for name in row}
    splits = {name for row in rows for name in row if isinstance(row[name], dict)}
    assert {"train", "validation", "test"} <= splits <= metrics
    assert "status" in all_of_summary and set(summary) <= all_of_summary
    assert recorded - splits <= every_row
    nested = ("parameters", "bytes_per_sync_per_device", "memory_bytes_per_device")
    assert {name for group in nested for name in summary[group]} <= all_of_summary


def test_a_record_runs_again_from_its_config(swept, tmp_path):
    first = swept[0] / "method=ist,seed=1"
    assert run.main(["run", f"--config={first}/config.json", f"--workdir={tmp_path}/again"]) == 0
    timing = ("seconds", "compile_seconds", "evaluation_seconds", "samples_per_second")
    rows = [
        [json.loads(line) for line in (w / "metrics.jsonl").read_text().splitlines()]
        for w in (first, tmp_path / "again")
    ]
    first_rows, again_rows = [
        [{k: v for k, v in row.items() if k not in timing} for row in some] for some in rows
    ]
    assert first_rows == again_rows
    configs = [json.loads((w / "config.json").read_text()) for w in (first, tmp_path / "again")]
    assert all(config["environment"].pop("started") for config in configs)
    assert configs[0] == configs[1]


def test_the_report_has_a_row_per_method_with_mean_and_deviation(swept):
    folder, _ = swept
    with (folder / "table.csv").open() as file:
        header, *rows = csv.reader(file)
    assert [row[0] for row in rows] == ["ist", "single"] and [row[1] for row in rows] == ["2", "2"]
    accuracies = [
        results.read_workdir(folder / f"method=ist,seed={s}").summary["last"]["test"]["accuracy"]
        for s in (0, 1)
    ]
    mean, deviation = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    position = header.index("test accuracy, last (%)")
    assert float(rows[0][position]) == pytest.approx(100 * mean)
    assert float(rows[0][position + 1]) == pytest.approx(100 * deviation)
    assert (folder / "table.md").read_text().count("\n") == 4
    assert report.main(["report", str(folder)]) == 0


def test_a_finished_run_says_so_and_another_config_in_its_workdir_is_refused(swept, capsys):
    folder, arguments = swept
    before = (folder / "method=ist,seed=0" / "metrics.jsonl").read_text()
    assert sweep.main(arguments) == 0
    assert capsys.readouterr().err.count("finished already") == 4
    assert (folder / "method=ist,seed=0" / "metrics.jsonl").read_text() == before
    same = ["run", *QUICK, f"--workdir={folder}/method=ist,seed=0"]
    assert run.main([*same, "--batch_size=16"]) == 2
    assert "batch_size was 32, is 16" in capsys.readouterr().err
    assert run.main([*same, "--placement=looped"]) == 0, "where it runs may change"


def finished_copy(swept, tmp_path):
    return shutil.copytree(swept[0] / "method=ist,seed=0", tmp_path / "run"), [
        "run",
        *QUICK,
        f"--workdir={tmp_path}/run",
    ]


def test_what_a_finished_run_lacks_is_made_again(swept, tmp_path):
    workdir, command = finished_copy(swept, tmp_path)
    before = (workdir / "metrics.jsonl").read_text()
    (workdir / "curves.png").unlink()
    assert run.main(command) == 0 and (workdir / "curves.png").exists()
    (workdir / "summary.json").write_text("")
    assert run.main(command) == 0
    assert json.loads((workdir / "summary.json").read_text())["status"] == "finished"
    assert (workdir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    "damage,status,says",
    [
        (lambda w: (w / "config.json").write_text("{"), 2, "is not the config.json of a run"),
        (
            lambda w: (w / "config.json").write_text('{"config": []}'),
            2,
            "is not the config.json of a run",
        ),
        (lambda w: (w / "config.json").write_bytes(b"\xff"), 2, "is not the config.json of a run"),
        (lambda w: (w / "config.json").unlink(), 2, "holds checkpoints and no config.json"),
        (lambda w: shutil.rmtree(w / "checkpoints"), 1, "all checkpoints are missing"),
        (lambda w: (w / "metrics.jsonl").write_text("{"), 1, "0 of its first 3 rows can be read"),
    ],
)
def test_a_damaged_workdir_is_one_line(swept, tmp_path, capsys, damage, status, says):
    workdir, command = finished_copy(swept, tmp_path)
    (workdir / "summary.json").unlink()
    damage(workdir)
    capsys.readouterr()
    assert run.main(command) == status
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("epochs=")
    ]
    assert says in lines[-1] and len(lines) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"config": null}',
        '{"config": 5}',
        '{"config": ["method"]}',
        "\xff",
        "[" * 9000,
    ],
)
def test_a_damaged_config_json_is_one_line(tmp_path, capsys, content):
    (tmp_path / "config.json").write_bytes(content.encode("latin1"))
    assert run.main(["run", f"--config={tmp_path}/config.json", "--workdir=unused"]) == 2
    error = capsys.readouterr().err
    assert "not the config.json of a run" in error and error.count("\n") == 1


@pytest.mark.parametrize("method", also_slowly(["ensemble"], METHOD_NAMES))
def test_every_method_runs_from_the_command_line(method, tmp_path):
    extra = ["--warmup_fraction=0.3", "--dense_fraction=0.3"] if method == "ist" else []
    assert run.main(["run", *QUICK, *extra, f"--method={method}", f"--workdir={tmp_path}"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["samples_seen"] >= 1150 and summary["last"]["test"]["accuracy"] > 0.1
    sends = method not in ("single", "ensemble")
    assert (summary["bytes_per_device"] > 0) == sends


OPTIONS = [
    *(
        "batch_size=0",
        "data.split=dirichlet",
        "model.eval_norm=batch",
        "model.dtype=bfloat16",
        "model.norm=none",
    ),
    *(
        "model.norm=layer",
        "opt_state=carry",
        "outer.name=sgd",
        "placement=sharded",
        "partition=rolling",
    ),
]


@pytest.mark.parametrize("option", OPTIONS)
def test_options_reach_a_round_that_can_be_lowered(option):
    """Traced and lowered, not compiled: the methods' own tests train with these options."""
    extra = ["--num_devices=2"] if "sharded" in option else []
    arguments = ["run", *QUICK, *extra, f"--{option}", "--workdir=unused"]
    experiment = resolve(run.parse(arguments).config)
    method, data = experiment.phases[0].method, experiment.data
    key = jax.random.key(0)
    view = next(data.views(key, method.num_workers, method.sharding, [range(1)]))
    state = jax.eval_shape(method.init, key)
    weight_S = jnp.ones(method.num_workers)
    assert method.round.lower(state, view, key, weight_S, steps=4).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_options_run_from_the_command_line(option, tmp_path):
    extra = ["--num_devices=2"] if "sharded" in option else []
    assert run.main(["run", *QUICK, *extra, f"--{option}", f"--workdir={tmp_path}"]) == 0


def test_two_fresh_runs_of_one_command_give_the_same_bits(swept, tmp_path):
    """Nothing is measured by default. The first run is the sweep's."""
    again = ["run", *QUICK, "--method=ist", "--seed=0", f"--workdir={tmp_path}"]
    assert run.main(again) == 0
    params = [
        restored.method.params(restored.state)
        for restored in map(restore, (swept[0] / "method=ist,seed=0", tmp_path))
    ]
    chex.assert_trees_all_equal(*map(jax.device_get, params))


def test_divergence_is_status_1_and_one_line(tmp_path, capsys):
    wild = ["--model.norm=none", "--optimizer.learning_rate=1e8"]
    assert run.main(["run", *QUICK, *wild, f"--workdir={tmp_path}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss of subnetwork") and "round" in error


def test_the_module_is_a_command(tmp_path):
    command = [sys.executable, "-m", "ist_jax", "run"]
    shown = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "--num-subnets INT" in shown.stdout

    def spent():
        # CPU time, as the machine may be busy with other tests
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    quickest = float("inf")
    for _ in range(3):
        began = spent()
        wrong = subprocess.run(
            [*command, *QUICK, "--methd=ist", "--workdir=x"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        quickest = min(quickest, spent() - began)
        assert (
            wrong.returncode == 2
            and wrong.stderr.count("\n") == 1
            and "Traceback" not in wrong.stderr
        )
        if quickest < 5:
            return
    raise AssertionError(
        f"what is wrong is said within 5 seconds of a processor, and it took {quickest:.1f} at best"
    )


@pytest.mark.slow
def test_a_run_is_traced_if_asked_and_says_how_its_groups_are_sharded(tmp_path, capsys):
    assert run.main(["run", *QUICK, "--profile", f"--workdir={tmp_path}"]) == 0
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert (
        "holder-sharded groups: hidden_0; home-sharded groups: hidden_1" in capsys.readouterr().out
    )


@pytest.mark.slow
def test_a_run_that_ends_with_a_dense_phase_says_how_its_groups_were_sharded_before(
    tmp_path, capsys
):
    assert run.main(["run", *QUICK, "--dense_fraction=0.5", f"--workdir={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("holder-sharded groups: hidden_0; home-sharded") == 1


def test_the_revision_of_an_installation_is_what_pip_wrote_down(tmp_path, monkeypatch):
    """PEP 610, of `pip install git+https://...`; no git knows the installed files."""
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(
        environment, "__file__", str(tmp_path / "ist_jax" / "training" / "environment.py")
    )
    installed = tmp_path / "ist_jax-9.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: ist_jax\nVersion: 9\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.git_revision() is None
    about = {
        "url": "https://example.org/ist_jax",
        "vcs_info": {"vcs": "git", "commit_id": "c0ffee"},
    }
    (installed / "direct_url.json").write_text(json.dumps(about))
    assert environment.git_revision() == "c0ffee"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "elsewhere" / "environment.py"))
    assert environment.git_revision() is None, "another copy than the one that is installed"


def test_a_full_disk_names_the_table_that_it_has_no_room_for_and_the_old_one_stands(
    swept, disk, capsys
):
    (disk / "table.md").write_text("a table")
    (disk / "ballast").write_bytes(bytes(1020 * 1024))
    assert report.main(["report", str(swept[0]), f"--out={disk}"]) == 1
    assert f"No space left on device: '{disk}/table.md'" in capsys.readouterr().err
    assert (disk / "table.md").read_text() == "a table" and sorted(
        p.name for p in disk.iterdir()
    ) == ["ballast", "table.md"]


def test_a_model_beyond_any_memory_is_one_line(capsys):
    assert (
        exit_status(lambda: jnp.zeros(2**45).block_until_ready()) == 2
    )  # as many bytes as a processor can address
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "does not fit into memory: use a smaller model" in error


def test_a_round_beyond_the_memory_of_the_host_is_one_line_and_no_kill(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(machine, "available_memory_bytes", lambda: 10_000)
    assert run.main(["run", *QUICK, f"--workdir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a round takes 0 GB, and the memory is 0 GB: this does not fit into memory" in error


def test_grids_are_parsed():
    points = sweep.grid(["method=ist,single", "model.hidden=8 8,16"])
    assert len(points) == 4 and points[1] == {"method": "ist", "model.hidden": "16"}
    assert sweep.name_of(points[2]) == "method=single,model.hidden=8x8"
    _, config = sweep.configuration(["sweep", *QUICK], points[2])
    assert config.model.hidden == (8, 8) and config.method == "single"
    with pytest.raises(ConfigError, match="--metod is no option: did you mean 'method'"):
        sweep.configuration(["sweep", *QUICK], {"metod": "ist"})
    for point in sweep.grid(["data.dir=/a b,", "local-steps-schedule=4 5"]):
        _, config = sweep.configuration(["sweep", *QUICK], point)
        assert config.data.dir == point["data.dir"], "text keeps its spaces, and may be empty"
        assert config.local_steps_schedule == (4, 5)
    assert sweep.name_of({"data.dir": "a b", "model.hidden": "8 8"}) == (
        "data.dir=a b,model.hidden=8x8"
    )
    with pytest.raises(ConfigError, match="write --grid FIELD=VALUE,VALUE"):
        sweep.grid(["seed"])
    with pytest.raises(ConfigError, match="seed has a --grid already"):
        sweep.grid(["seed=1", "seed=2"])
    assert sweep.grid([]) == [{}]
