"""Kept tables and workdirs: what is written is read again, and what is damaged is one line."""

import json
import pathlib

import pytest
from finished_runs import finished, write_workdir

from ist_jax.cli.commands import report
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import results
from ist_jax.cli.records.record import RESUMES
from ist_jax.cli.records.results import Kept, Run

ROOT = pathlib.Path(__file__).parent.parent.parent
TABLES = sorted((ROOT / "experiments").glob("*/results/*.jsonl"))
COMMAND = "ist-jax sweep --config FILE"


def test_runs_of_workdirs_are_kept_in_one_file_and_read_from_it(tmp_path, capsys):
    for seed in (0, 1):
        write_workdir(tmp_path / "runs" / f"seed={seed}", finished({"seed": seed}))
    table = tmp_path / "table.jsonl"
    keep = ["report", str(tmp_path / "runs"), "--keep", str(table), "--command", COMMAND]
    assert report.main(keep) == 0
    assert capsys.readouterr().out == f"2 runs added to {table}\n"
    kept = results.read(table)
    assert kept.command == COMMAND
    assert kept.runs == [
        results.read_workdir(tmp_path / "runs" / f"seed={seed}") for seed in (0, 1)
    ]
    first, *lines = map(json.loads, table.read_text().splitlines())
    assert first["config"]["method"] == "ist" and "seed" not in first["config"]
    assert [line["config"] for line in lines] == [{"seed": 0}, {"seed": 1}]
    assert [line["environment"] for line in lines] == [{}, {}]


def test_a_table_that_is_read_and_written_has_the_same_runs(tmp_path):
    for table in TABLES[:3]:
        kept = results.read(table)
        results.write(tmp_path / "again.jsonl", kept)
        assert results.read(tmp_path / "again.jsonl") == kept


def test_every_kept_table_has_a_command_and_finished_runs():
    assert len(TABLES) == 44 and sum(len(results.read(table).runs) for table in TABLES) == 1222
    for table in TABLES:
        kept = results.read(table)
        assert all(line.startswith("ist-jax sweep --config") for line in kept.command.splitlines())
        assert {run.summary["status"] for run in kept.runs} == {"finished"}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.stem)
def test_the_selected_evaluation_of_a_kept_run_is_its_best_on_validation_data(table):
    for run in results.read(table).runs:
        validation = run.curve["validation/accuracy"]
        first = validation.index(max(validation))
        for name, index in (("selected", first), ("last", -1)):
            for split in ("validation", "test"):
                value = run.summary[name][split]["accuracy"]
                assert value == run.curve[f"{split}/accuracy"][index]
            assert run.summary[name]["round"] == run.curve["round"][index]


def test_more_runs_and_their_command_are_added_to_a_table(tmp_path):
    write_workdir(tmp_path / "a", finished())
    write_workdir(tmp_path / "b", finished({"method": "single"}))
    table = tmp_path / "table.jsonl"
    with pytest.raises(ConfigError, match="is a new table: give the command of its runs"):
        results.keep([tmp_path / "a"], table)
    assert results.keep([tmp_path / "a"], table, "ist-jax run --method ist") == 1
    assert results.keep([tmp_path / "b"], table, "ist-jax run --method single") == 1
    kept = results.read(table)
    assert kept.command.splitlines() == ["ist-jax run --method ist", "ist-jax run --method single"]
    assert [run.config["method"] for run in kept.runs] == ["ist", "single"]
    with pytest.raises(ConfigError, match=r"two runs have the same configuration \(method=ist"):
        results.keep([tmp_path / "a"], table)


def test_places_of_a_user_are_kept_as_names_alone(tmp_path):
    run = finished({"data.dir": "/home/somebody/digits", "init_from": ""})
    results.write(tmp_path / "table.jsonl", Kept(COMMAND, [run]))
    (read,) = results.read(tmp_path / "table.jsonl").runs
    assert read.config["data.dir"] == "digits" and read.config["init_from"] == ""


def test_resumptions_in_another_environment_are_kept(tmp_path):
    workdir = write_workdir(tmp_path / "run", finished())
    noted = {"round": 3, "environment": {"git_revision": "another"}}
    (workdir / RESUMES).write_text(json.dumps(noted) + "\n")
    results.keep([workdir], tmp_path / "table.jsonl", COMMAND)
    assert results.read(tmp_path / "table.jsonl").runs[0].resumes == (noted,)


def test_a_field_that_is_newer_than_a_table_has_its_default(tmp_path):
    results.write(tmp_path / "table.jsonl", Kept(COMMAND, [finished()]))
    (run,) = results.read(tmp_path / "table.jsonl").runs
    assert run.config["partition"] == "balanced" and run.config["num_subnets"] == 2


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    for folder, content in (("broken", "{"), ("hollow", "{}"), ("list", "[]")):
        (tmp_path / folder).mkdir()
        for name in ("config.json", "metrics.jsonl", "summary.json"):
            (tmp_path / folder / name).write_text(content)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text("{}")
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "summary.json").write_text("{}")
    whole = finished()
    no_number = whole._replace(summary=whole.summary | {"seconds": None})
    write_workdir(tmp_path / "none", no_number)
    for arguments, says in (
        ([], "give at least one folder"),
        ([str(tmp_path / "begun")], "no finished run (summary.json) in"),
        ([str(tmp_path / "begun")], "1 unfinished: the same command resumes them"),
        (
            [str(tmp_path / "python")],
            "was written from Python by an earlier version, and has no config.json",
        ),
        ([str(tmp_path / "nowhere")], "no finished run"),
        ([str(tmp_path / "broken")], "does not hold a complete run record"),
        ([str(tmp_path / "hollow")], "does not hold a complete run record"),
        ([str(tmp_path / "list")], "does not hold a complete run record"),
        ([str(tmp_path / "none")], "None is not a finite number"),
        (["--page", f"{tmp_path}/none.md"], "there is no such file"),
        (["--pages", "x"], "--pages"),
    ):
        assert report.main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


def test_a_run_of_an_earlier_version_is_one_line(tmp_path, capsys):
    run = finished()
    summary = {"status": "finished", "test_accuracy": 0.9}
    write_workdir(tmp_path / "summary", run._replace(summary=summary))
    write_workdir(tmp_path / "config", run._replace(config=run.config | {"drop.rate": 0.0}))
    for folder, why in (
        ("summary", "summary.json has no selection"),
        ("config", "config.json has drop.rate"),
    ):
        assert report.main(["report", str(tmp_path / folder)]) == 2
        assert capsys.readouterr().err == (
            f"error: {tmp_path}/{folder} holds a run of an earlier version of ist_jax ({why}): "
            "report it with that version, or train it again in another workdir\n"
        )


def test_a_damaged_table_is_one_line(tmp_path):
    table = tmp_path / "table.jsonl"
    with pytest.raises(ConfigError, match="there is no such table"):
        results.read(table)
    for content in ("", "{", "[]", '{"command": "x"}\n{}', '{"command": "x", "paper": [1]}'):
        table.write_text(content)
        with pytest.raises(ConfigError, match="is not a kept table"):
            results.read(table)


def test_a_run_that_was_not_evaluated_on_test_data_is_refused(tmp_path):
    run = finished()
    curve = {name: column for name, column in run.curve.items() if not name.startswith("test/")}
    with pytest.raises(ConfigError, match="complete run record"):
        results.read_workdir(write_workdir(tmp_path / "run", run._replace(curve=curve)))


def test_unfinished_runs_are_found_and_left_out(tmp_path, capsys):
    write_workdir(tmp_path / "runs" / "a", finished())
    unfinished = write_workdir(tmp_path / "runs" / "b", finished({"seed": 1}))
    (unfinished / "summary.json").unlink()
    assert results.find([tmp_path]) == [tmp_path / "runs" / "a"]
    assert report.main(["report", str(tmp_path / "runs")]) == 0
    assert f"left out, not finished: {unfinished}" in capsys.readouterr().err


def test_a_run_in_memory_needs_neither_environment_nor_resumptions():
    assert Run({}, {}, {}).environment == {} and Run({}, {}, {}).resumes == ()
