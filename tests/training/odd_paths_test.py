"""Workdirs whose names a library would read as a pattern, an address or another folder."""

import json
import os
import pathlib
import tempfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import BATCH, METHODS, TASK, also_slowly, dataset
from command_line import QUICK, exported, trained
from orbax.checkpoint import v1 as ocp

from ist_jax import LoopConfig, run
from ist_jax.cli.commands import evaluate
from ist_jax.cli.commands import run as command
from ist_jax.models import MLP
from ist_jax.models.linen import LinenModel
from ist_jax.training import arrays, export
from ist_jax.training.checkpoint import CheckpointError, Checkpoints, committed_rounds
from ist_jax.training.loop import Stopped

STATE = {"x": jnp.arange(6.0).reshape(3, 2), "y": jnp.zeros(3, jnp.bfloat16)}
AS_REPORTED = "hidden=[256,256] *?\\x"
NAMES = [
    *(AS_REPORTED, "[1]", "[!a]", "*", "**", "?", "back\\slash", "back\\", "100%", "%5b", "#1"),
    *("{}", "two words", "Jürgen", "Ju\u0308rgen", "two\nlines", "gs:", "x.__lock", "~", "a:b"),
    *("'\"$;&|", "-", "...", "x.orbax-checkpoint-tmp", os.fsdecode(b"\xff")),
]


@pytest.fixture(autouse=True)
def links(tmp_path_factory, monkeypatch):
    """The folder for links."""
    folder = tmp_path_factory.mktemp("links")
    monkeypatch.setattr(arrays, "_PLACES", (str(folder),))
    return folder


@pytest.mark.parametrize("name", also_slowly([AS_REPORTED, "back\\", "gs:"], NAMES), ids=ascii)
def test_a_checkpoint_below_any_name_holds_its_arrays(name, tmp_path):
    folder = tmp_path / name / "checkpoints"
    Checkpoints(folder).save(1, STATE, STATE, {"round": 1})
    again = Checkpoints(folder)
    assert again.run_state() == {"round": 1}
    chex.assert_trees_all_equal(again.restore(STATE, STATE), STATE)
    assert os.listdir(tmp_path) == [name], "and nothing is written elsewhere"


def test_a_path_over_a_link_and_back_is_the_one_that_the_system_means(tmp_path, monkeypatch):
    """`link/..` is the folder above the link's target, and not the one that holds the link."""
    (tmp_path / "far" / "target").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "target")
    Checkpoints(tmp_path / "link" / ".." / "run").save(1, STATE, STATE, {"round": 1})
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]
    chex.assert_trees_all_equal(Checkpoints(tmp_path / "far" / "run").restore(STATE, STATE), STATE)


@pytest.mark.parametrize("folder", ["/s3/bucket", "/gs/bucket", "/hf/x/y", "/a/../b", "//host/a"])
def test_a_path_that_is_read_as_an_address_is_given_by_a_link_of_one_name(folder, links):
    path = arrays.literal_path(pathlib.Path(folder))
    assert pathlib.Path(path).parent == links and os.readlink(path) == folder
    assert arrays.literal_path(pathlib.Path(folder)) == path, "as in every other process"
    assert len(list(links.iterdir())) == 1


@pytest.mark.parametrize(
    "folder", ["/data/runs/method=ist,seed=0", "/home/Jürgen/my runs/a+b@c", "/a/s3/b", "/s3x/..b"]
)
def test_a_plain_path_is_given_as_it_is(folder, links):
    assert arrays.literal_path(pathlib.Path(folder)) == folder
    assert not list(links.iterdir())


def test_something_else_at_the_place_of_a_link_is_not_followed(tmp_path, links, monkeypatch):
    path = pathlib.Path(arrays.literal_path(tmp_path / "[1]"))
    path.unlink()
    path.symlink_to(tmp_path / "another")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(other))
    assert arrays.literal_path(tmp_path / "[1]") == str(other / path.name)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "[2]"))
    with pytest.raises(CheckpointError, match="need a link in .*: use a workdir") as error:
        Checkpoints(tmp_path / "[1]").save(1, STATE, STATE, {})
    assert "\n" not in str(error.value) and not committed_rounds(tmp_path / "[1]")


def test_a_checkpoint_whose_arrays_are_missing_is_not_committed(tmp_path, monkeypatch):
    """Orbax takes "[1]" for a pattern, and merges the arrays of no process."""
    Checkpoints(tmp_path / "[1]").save(1, STATE, STATE, {"round": 1})
    with monkeypatch.context() as as_before:
        as_before.setattr(arrays, "literal_path", str)
        with pytest.raises(CheckpointError, match="2: cannot be written .*earlier checkpoints are"):
            Checkpoints(tmp_path / "[1]").save(2, STATE, STATE, {"round": 2})
    assert committed_rounds(tmp_path / "[1]") == [1]
    assert Checkpoints(tmp_path / "[1]").run_state() == {"round": 1}


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda leaf: leaf + 1, "x has other values"),
        (lambda leaf: leaf.astype(jnp.float16), r"x has shape float16\[3, 2\] on disk and float32"),
        (lambda leaf: leaf[:2], r"x has shape float32\[2, 2\] on disk and float32\[3, 2\] in the"),
    ],
)
def test_a_checkpoint_of_other_arrays_than_the_runs_is_not_committed(
    tmp_path, monkeypatch, change, says
):
    save = ocp.save
    changed = lambda path, state, **options: save(path, jax.tree.map(change, state), **options)
    monkeypatch.setattr(ocp, "save", changed)
    with pytest.raises(CheckpointError, match=f"what is read back: {says}"):
        Checkpoints(tmp_path).save(1, STATE, STATE, {})
    assert not committed_rounds(tmp_path)


def test_a_large_state_is_compared_by_its_names_shapes_and_types(tmp_path, monkeypatch):
    """It is not read back in full: that would take its memory once more."""
    monkeypatch.setattr(arrays, "_READ_BACK", 10)
    monkeypatch.setattr(ocp, "load", None)
    Checkpoints(tmp_path).save(1, STATE, STATE, {})
    assert committed_rounds(tmp_path) == [1]


def test_law_10_a_run_in_such_a_workdir_is_stopped_and_resumed_as_the_unbroken_one(tmp_path):
    def train(workdir, **options):
        phases = [(METHODS["ist-carry"](4), 12 * 4 * BATCH, 2)]
        return run(phases, TASK, dataset(), LoopConfig(eval_every=2), workdir, **options)

    unbroken, folder = train(tmp_path / "plain"), tmp_path / "runs" / AS_REPORTED
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="round 3"):
        train(folder, stop=lambda: next(asked))
    resumed = train(folder)
    chex.assert_trees_all_equal(resumed.params, unbroken.params)
    assert [row["train"] for row in resumed.history] == [row["train"] for row in unbroken.history]
    names = {path.name for path in folder.iterdir()}
    files = {"config.json", "metrics.jsonl", "summary.json"}
    assert names == {"checkpoints", "lock", "tensorboard", *files}
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {AS_REPORTED}


@pytest.mark.slow
def test_every_command_takes_such_a_path(tmp_path, capsys):
    folder = tmp_path / AS_REPORTED
    workdir, summary = trained(folder / "[run]", "--profile")
    assert list((workdir / "profile").rglob("*.xplane.pb")) and (workdir / "curves.png").exists()
    (workdir / "summary.json").unlink()
    assert command.main(["run", *QUICK, "--eval_subnets=True", f"--workdir={workdir}"]) == 0
    again = json.loads((workdir / "summary.json").read_text())
    assert again["last"] == summary["last"]
    assert exported(workdir, folder / "[model]") == 0
    capsys.readouterr()
    assert evaluate.main(["evaluate", f"--model={folder}/[model]"]) == 0
    assert f"accuracy {summary['last']['test']['accuracy']:.4f}" in capsys.readouterr().out
    start = [f"--init_from={workdir}", f"--workdir={folder}/*"]
    assert command.main(["run", *QUICK, *start]) == 0
    assert sorted(os.listdir(folder)) == ["*", "[model]", "[run]"]
    assert os.listdir(tmp_path) == [AS_REPORTED]


def test_an_export_that_is_read_back_as_something_else_is_not_kept(tmp_path):
    """numpy writes bfloat16 as two bytes without a type."""
    params = {"output": {"kernel": np.zeros((2, 3), jnp.bfloat16)}}
    with pytest.raises(export.ExportError, match="params/output/kernel .bfloat16. is not: save"):
        export.write(tmp_path / "out", LinenModel(MLP((4,), 3)), params, None, {})
    assert not list(tmp_path.iterdir())
