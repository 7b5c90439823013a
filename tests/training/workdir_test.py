"""Nothing is lost by damaged checkpoints, full or read-only disks, or two runs in one workdir."""

import contextlib
import errno
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest
from cases import BATCH, METHODS, TASK, also_slowly, dataset
from command_line import QUICK
from jax.errors import JaxRuntimeError
from orbax.checkpoint import v1 as ocp

from ist_jax import LoopConfig, run
from ist_jax.cli.commands import run as command_line
from ist_jax.training import checkpoint, loggers
from ist_jax.training import workdir as workdir_module
from ist_jax.training.checkpoint import CheckpointError, Checkpoints
from ist_jax.training.loggers import JsonLines, evaluation, rows_until
from ist_jax.training.workdir import Workdir, WorkdirError

SAMPLES = 4 * BATCH
CONFIG = LoopConfig(eval_every=2, checkpoint_every=2)


def train(workdir, rounds=8, **options):
    return run(
        [(METHODS["ist-carry"](4), 2 * rounds * SAMPLES, 2)],
        TASK,
        dataset(),
        CONFIG,
        workdir,
        **options,
    )


def metrics_of(results):
    """What a run measured of its model, row by row."""
    return [(row["round"], row["train"], evaluation(row)) for row in results.history]


class Died(Exception):
    pass


def die_after(rounds):
    """What stops a run as a kill does: nothing is saved on the way out."""
    asked = iter(range(1, 1000))

    def stop():
        if next(asked) == rounds:
            raise Died
        return False

    return stop


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A workdir whose run died in round 7, with checkpoints of rounds 4 and 6, and a full run."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    with pytest.raises(Died):
        train(folder, stop=die_after(7))
    return folder, train(None)


def files_of(folder):
    return sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def newest_files(broken):
    return [file for file in files_of(broken / "checkpoints") if file.parts[0] in ("6", "6.sha256")]


@pytest.mark.slow
def test_a_flipped_byte_in_any_file_of_a_checkpoint_falls_back_to_the_one_before(broken, tmp_path):
    files = newest_files(broken[0])
    assert len(files) > 5 and pathlib.Path("6.sha256") in files
    for number, file in enumerate(files):
        if (broken[0] / "checkpoints" / file).stat().st_size == 0:
            continue
        copy = shutil.copytree(broken[0] / "checkpoints", tmp_path / str(number))
        assert Checkpoints(copy, tidy=False).run_state()["round"] == 6
        flip(copy / file)
        said = []
        assert Checkpoints(copy, said.append).run_state()["round"] == 4, file
        assert len(said) == 1 and "6 is damaged" in said[0]
        assert Checkpoints(copy).run_state()["round"] == 4, "set aside, and never found again"


@pytest.mark.parametrize(
    "damage", ["truncated", "removed", "added", "digest removed", "digest cut"]
)
def test_other_damage_falls_back_too(broken, tmp_path, damage):
    copy = shutil.copytree(broken[0] / "checkpoints", tmp_path / "copy")
    largest = max(
        (copy / file for file in newest_files(broken[0])), key=lambda file: file.stat().st_size
    )
    {
        "truncated": lambda: os.truncate(largest, largest.stat().st_size // 2),
        "removed": largest.unlink,
        "added": lambda: (copy / "6" / "more").write_text("x"),
        "digest removed": (copy / "6.sha256").unlink,
        "digest cut": lambda: os.truncate(copy / "6.sha256", 100),
    }[damage]()
    assert Checkpoints(copy).run_state()["round"] == 4


def test_a_run_resumes_from_the_checkpoint_before_a_damaged_one_and_ends_as_the_unbroken_run(
    broken, tmp_path, capsys
):
    copy = shutil.copytree(broken[0], tmp_path / "run")
    flip(max((copy / "checkpoints" / "6").rglob("*"), key=lambda file: file.stat().st_size))
    results = train(copy)
    assert "6 is damaged: resuming from the one before it" in capsys.readouterr().err
    chex.assert_trees_all_equal(results.params, broken[1].params)
    assert metrics_of(results) == metrics_of(broken[1])
    assert Checkpoints(copy / "checkpoints").run_state()["round"] == 8


def test_if_all_checkpoints_are_damaged_that_is_an_error_now_and_later(broken, tmp_path):
    copy = shutil.copytree(broken[0], tmp_path / "run")
    for digest in (copy / "checkpoints").glob("*.sha256"):
        flip(digest)
    for _ in range(2):
        with pytest.raises(WorkdirError, match="all of them are damaged"):
            train(copy)


def test_what_was_left_half_written_is_removed_and_nothing_else(broken, tmp_path):
    copy = shutil.copytree(broken[0] / "checkpoints", tmp_path / "copy")
    shutil.copytree(copy / "6", copy / "7")  # died before the digest
    (copy / "8.orbax-checkpoint-tmp-1").mkdir()
    (copy / "9.sha256.tmp").write_text("")
    (copy / "mine").mkdir()
    assert Checkpoints(copy, tidy=False).run_state()["round"] == 6
    assert (copy / "7").exists(), "a reader changes nothing"
    assert Checkpoints(copy).run_state()["round"] == 6
    assert sorted(path.name for path in copy.iterdir()) == [
        "4",
        "4.sha256",
        "6",
        "6.sha256",
        "mine",
    ]


def test_checkpoint_0_is_there_before_round_1_and_a_workdir_without_one_starts_again(
    tmp_path, capsys
):
    with pytest.raises(Died):
        train(tmp_path, stop=die_after(1))
    assert Checkpoints(tmp_path / "checkpoints").run_state()["round"] == 0
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "metrics.jsonl").write_text('{"round": 2, "train"')
    assert [row["round"] for row in train(tmp_path, rounds=2).history] == [1, 2]
    assert "committed no checkpoint: starting again" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(WorkdirError, match="all checkpoints are missing"):
        train(tmp_path, rounds=2)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    file = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"round": n, "loss": 0.1 * n}) for n in (2, 4, 6, 8)]
    for tail in ("", '{"round": 10, "lo', '{"round": 10}'):
        file.write_text("\n".join([*rows, tail]))
        kept = rows_until(file, 6)
        assert [row["round"] for row in kept] == [2, 4, 6]
        JsonLines(file, kept).close()
        assert file.read_text() == "\n".join(rows[:3]) + "\n"


def test_a_damaged_row_before_the_checkpoint_is_an_error_and_loses_nothing(broken, tmp_path):
    copy = shutil.copytree(broken[0], tmp_path / "run")
    metrics = copy / "metrics.jsonl"
    first, *rest = metrics.read_bytes().splitlines(keepends=True)
    assert len(rest) == 5, (
        "of the rounds up to the checkpoint; the sixth is not yet followed by one"
    )
    for damaged in (b"\xff\n" + b"".join(rest), b"".join(rest[:1]), b""):
        metrics.write_bytes(damaged)
        with pytest.raises(
            WorkdirError, match=r"metrics.jsonl is damaged: . of its first 6 rows can be read"
        ):
            train(copy)
        assert metrics.read_bytes() == damaged
    metrics.write_bytes(first + b"".join(rest))
    assert train(copy).summary["rounds"] == 8


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    state = {"x": jnp.ones((4, 2)), "y": jnp.zeros(3)}
    Checkpoints(tmp_path).save(1, state, state, {})
    other = {"x": jnp.ones((4, 3)), "y": jnp.zeros(3)}
    for like, says in ((other, "x has shape"), ({"x": state["x"]}, "y is only there")):
        with pytest.raises(CheckpointError, match=says):
            Checkpoints(tmp_path).restore(like, like)
    longer = {"x": jnp.ones((6, 2)), "y": jnp.zeros(3)}
    grown = Checkpoints(tmp_path).restore(longer, state)
    assert grown["x"].shape == (6, 2) and grown["x"].sum() == 8, "zero padding of the same model"
    with pytest.raises(CheckpointError, match="x has shape"):
        Checkpoints(tmp_path).restore({"x": jnp.ones((3, 2)), "y": jnp.zeros(3)}, state)


def test_a_checkpoint_of_the_layout_before_is_refused_in_one_line(tmp_path):
    state = {"x": jnp.ones(3)}
    earlier = {"book": {"round": 2}, "shapes": {"x": [3]}, "model": {"x": [3]}}
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    ocp.save(folder / "2", state, custom_metadata=earlier)
    (folder / "2.sha256").write_text(checkpoint._digest(folder / "2"))
    with pytest.raises(
        WorkdirError, match="2 was written by an earlier version .*: finish"
    ) as error:
        train(tmp_path)
    assert "\n" not in str(error.value)


def test_two_runs_in_one_workdir_are_refused(tmp_path):
    first = Workdir(tmp_path, print)
    with pytest.raises(WorkdirError, match="another run is writing here"):
        train(tmp_path)
    first.close()
    assert train(tmp_path, rounds=2).summary["rounds"] == 2


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", also_slowly(["orbax"], ["orbax", "digest", "metrics", "summary"]))
def test_a_full_disk_is_one_line_and_the_run_resumes_once_there_is_space(
    tmp_path, broken, monkeypatch, where
):
    copy = shutil.copytree(broken[0], tmp_path / "run")
    with monkeypatch.context() as full:
        {
            "orbax": lambda: full.setattr(ocp, "save", no_space),
            "digest": lambda: full.setattr(checkpoint, "write_whole", no_space),
            "metrics": lambda: full.setattr(loggers.JsonLines, "log", no_space),
            "summary": lambda: full.setattr(workdir_module, "write_whole", no_space),
        }[where]()
        with pytest.raises(
            WorkdirError, match="cannot be written.*No space left on device"
        ) as error:
            train(copy)
    assert "\n" not in str(error.value)
    results = train(copy)
    chex.assert_trees_all_equal(results.params, broken[1].params)
    assert metrics_of(results) == metrics_of(broken[1])


def test_a_barrier_that_nobody_comes_to_is_another_process_that_is_gone_and_no_full_disk(
    tmp_path, monkeypatch
):
    """Orbax may raise it without JAX's own error at the bottom."""

    def alone(*args, **options):
        raise TimeoutError("Timeout waiting at barrier 'sync'. Task 1 heartbeat timeout")

    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(ocp, "save", alone)
    monkeypatch.setattr(checkpoint, "all_succeed", lambda action: action())
    monkeypatch.setattr(checkpoint.jax, "process_count", lambda: 2)
    with pytest.raises(JaxRuntimeError, match="Task 1 heartbeat timeout"):
        checkpoints.save(1, {}, {}, {})


UNTOLD = (
    "import shutil; from collections import namedtuple as t; "
    "shutil.disk_usage = lambda path: t('u', 'free')(2**40); "
)
LARGER = ["--model.hidden", "128", "128", "--checkpoint_every=1", "--eval_every=1"]


@pytest.mark.slow
@pytest.mark.parametrize("told", ["told", "untold"])
@pytest.mark.parametrize("free, trains", [(4, False), (70, False), (400, True)])
def test_a_file_system_that_is_full(disk, free, trains, told):
    """The error is one line for every file, and under a quota that nothing reports."""
    (disk / "ballast").write_bytes(bytes((1024 - free) * 1024))
    program = (
        UNTOLD if told == "untold" else ""
    ) + "import sys; from ist_jax.cli.commands import run; sys.exit(run.main(sys.argv))"
    command = [sys.executable, "-c", program, *QUICK, *LARGER, f"--workdir={disk}/run"]
    ended = subprocess.run(
        command, cwd=pathlib.Path(__file__).parent.parent.parent, capture_output=True, text=True
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith("epochs=")]
    assert said[-1].startswith("error: ") and "cannot be written" in said[-1], ended.stderr
    assert all(line.startswith("ist round ") for line in said[:-1]) and bool(said[:-1]) == trains
    (disk / "ballast").unlink()
    assert command_line.main(["run", *QUICK, *LARGER, f"--workdir={disk}/run"]) == 0


def test_errors_of_others_are_still_logged(tmp_path, caplog):
    """What is silenced is what orbax logs of errors that it raises."""
    state = {"x": jnp.ones(3)}
    Checkpoints(tmp_path).save(1, state, state, {})
    try:
        raise ValueError("of a user's")
    except ValueError:
        logging.getLogger("absl").exception("this is said")
        logging.getLogger("asyncio").error("and this")
    assert [record.message for record in caplog.records if "this" in record.message] == [
        "this is said",
        "and this",
    ]


def test_metrics_on_a_full_disk_are_one_line(tmp_path):
    workdir = Workdir(tmp_path, print)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    workdir._metrics._file.close()
    workdir._metrics._file = (tmp_path / "metrics.jsonl").open("a")
    with pytest.raises(WorkdirError, match="cannot be written or read .No space left on device"):
        workdir.log({"round": 1, "samples_seen": 1})
    workdir.close()


@contextlib.contextmanager
def without_privileges(uid):
    """Root may write anywhere."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("begun", [False, True])
def test_a_workdir_that_may_not_be_written_is_one_line_and_stays_as_it_is(tmp_path, broken, begun):
    folder = tmp_path / "run"
    shutil.copytree(broken[0], folder) if begun else folder.mkdir()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {file: (folder / file).read_bytes() for file in files_of(folder)}
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest" in str(parent) and os.geteuid() == 0:
            parent.chmod(0o755)
    user = without_privileges(65534) if os.geteuid() == 0 else contextlib.nullcontext()
    with (
        user,
        pytest.raises(
            WorkdirError, match="run: cannot be written or read .Permission denied"
        ) as error,
    ):
        train(folder)
    assert "\n" not in str(error.value)
    assert before == {file: (folder / file).read_bytes() for file in files_of(folder)}
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def test_devices_do_not_matter_to_a_state_of_jax_arrays(tmp_path):
    state = {"x": jax.random.normal(jax.random.key(0), (8, 2))}
    Checkpoints(tmp_path).save(1, state, state, {"round": 1})
    like = jax.device_put(state, jax.devices()[1])
    restored = Checkpoints(tmp_path).restore(like, like)
    assert restored["x"].devices() == {jax.devices()[1]}
    chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
