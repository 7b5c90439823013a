"""The loop: records, budgets, phases, resuming, divergence."""

import dataclasses
import io
import json
import struct
from types import SimpleNamespace

import chex
import jax
import numpy as np
import optax
import pytest
from cases import (
    BATCH,
    DECOMPOSITIONS,
    METHODS,
    SGD,
    TASK,
    also_slowly,
    dataset,
    params_of,
    two_groups,
)
from tensorboardX.proto import event_pb2

from ist_jax import LoopConfig, data_parallel, ensemble, ist, replicated, run
from ist_jax.core.placement import sharded, subnet_mesh
from ist_jax.core.task import Selection
from ist_jax.methods.base import Start, StartError
from ist_jax.training.checkpoint import Checkpoints
from ist_jax.training.config import Phase
from ist_jax.training.divergence import NonFiniteLossError
from ist_jax.training.loggers import Terminal, evaluation
from ist_jax.training.loop import Stopped

TIMING = ("seconds", "compile_seconds", "evaluation_seconds", "samples_per_second")
CONFIG = LoopConfig(eval_every=2, checkpoint_every=2, eval_subnets=True)
SAMPLES = 4 * BATCH  # of one local step of four workers
SPLITS = ("validation", "test")


def rows_of(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def phases():
    """Warm-up, IST and a dense phase, with a schedule that drops in the middle of a round."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {10: 0.1}), 0.9)
    whole = replicated(two_groups(4), 4)
    return [
        (ist(whole, TASK, tx, batch_size=BATCH), 4 * SAMPLES, 3),
        (ist(two_groups(4), TASK, tx, batch_size=BATCH), 11 * SAMPLES, 3),
        (data_parallel(whole, TASK, tx, num_workers=4, batch_size=BATCH), 4 * SAMPLES, 3),
    ]


def events(workdir):
    """{name: {step: value}} of the TensorBoard events of a run, as another program reads them."""
    scalars = {}
    for file in (workdir / "tensorboard").glob("events*"):
        for content in _records(file):
            event = event_pb2.Event.FromString(content)
            for value in event.summary.value:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars


def _records(file):
    """The contents of a TFRecord file: length, checksum, content, checksum."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def test_records_count_samples_bytes_and_rounds(tmp_path):
    made = phases()
    results = run(made, TASK, dataset(), CONFIG, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(1, 9)), "a row per round"
    assert rows == results.history
    evaluated = [row for row in rows if evaluation(row)]
    assert [row["round"] for row in evaluated] == [2, 4, 6, 8]
    assert rows[-1]["samples_seen"] == 19 * SAMPLES == results.summary["samples_seen"]
    sync = [method.costs.bytes_per_sync for method, _, _ in made]
    assert rows[-1]["bytes_per_device"] == pytest.approx(2 * sync[0] + 4 * sync[1] + 4 * sync[2])
    for name in ("lower_bound", "all_reduce"):
        each = [getattr(method.costs, name) for method, _, _ in made]
        assert min(each) > 0
        assert rows[-1][f"bytes_per_device_{name}"] == pytest.approx(
            2 * each[0] + 4 * each[1] + 4 * each[2]
        )
    assert results.summary["local_steps"] == 19 and results.summary["rounds"] == 8
    assert json.loads((tmp_path / "summary.json").read_text()) == results.summary
    assert all(np.isfinite(row["train"]["loss"]) for row in rows)
    assert all(0 <= row[split]["accuracy"] <= 1 for row in evaluated for split in SPLITS)
    for row in evaluated:
        assert len(row["train_subnets"]["loss"]) == 4
        assert (
            len(row["validation_subnets"]["accuracy"]) == 4 == len(row["test_subnets"]["accuracy"])
        )
    best = max(evaluated, key=lambda row: row["validation"]["accuracy"])
    summary = results.summary
    assert summary["selection"] == {"metric": "accuracy", "best": "max"}
    assert summary["selected"] == {"round": best["round"], **evaluation(best)}
    assert summary["last"] == {"round": 8, **evaluation(rows[-1])}
    assert events(tmp_path)["test/accuracy"] == pytest.approx(
        {row["samples_seen"]: row["test"]["accuracy"] for row in evaluated}, abs=1e-6
    )
    assert events(tmp_path)["train/loss"] == pytest.approx(
        {row["samples_seen"]: row["train"]["loss"] for row in rows}, rel=1e-6
    )


class Kept:
    """A logger of a user."""

    def __init__(self):
        self.rows, self.texts, self.closed = [], [], 0

    def log(self, row, text=None):
        (self.rows if text is None else self.texts).append(text or row)

    def close(self):
        self.closed += 1


def test_a_users_logger_takes_every_row_and_is_closed_once_also_when_the_run_fails(tmp_path):
    kept, stopped = Kept(), Kept()
    asked = iter([False, True])
    phases = [(METHODS["ist"](4), 9 * SAMPLES, 3)]
    with pytest.raises(Stopped):
        run(phases, TASK, dataset(), CONFIG, tmp_path, loggers=[stopped], stop=lambda: next(asked))
    assert [row["round"] for row in stopped.rows] == [1, 2] and stopped.closed == 1
    results = run(phases, TASK, dataset(), CONFIG, tmp_path, loggers=[kept])
    assert kept.rows == results.history[2:] and kept.closed == 1
    assert kept.texts == ["resuming after round 2"]
    again = Kept()
    run(phases, TASK, dataset(), CONFIG, tmp_path, loggers=[again])
    assert "finished already, and nothing is trained" in again.texts[0]


def test_rows_of_one_evaluation_and_its_round_are_one_row():
    results = run([(METHODS["ist"](4), 6 * SAMPLES, 3)], TASK, dataset(), CONFIG)
    assert [row["round"] for row in results.history] == [1, 2]
    assert not evaluation(results.history[0])
    assert evaluation(results.history[1]).keys() == {*SPLITS, *(f"{s}_subnets" for s in SPLITS)}


def test_a_phase_and_results_are_shown_in_a_line():
    phase = Phase(METHODS["ist"](4), 3 * SAMPLES, 3)
    assert phase.rounds(0) == [3] and phase.rounds(3) == []
    assert phase.draws(1) == [range(BATCH, 3 * BATCH)]
    assert len(repr(run([phase], TASK, dataset()))) < 300


def test_the_task_says_which_evaluation_is_the_best(tmp_path):
    task = TASK._replace(selects=Selection("loss", "min"))
    results = run([(METHODS["ist"](4), 12 * SAMPLES, 3)], task, dataset(), CONFIG)
    best = min(filter(evaluation, results.history), key=lambda row: row["validation"]["loss"])
    assert results.summary["selection"] == {"metric": "loss", "best": "min"}
    assert results.summary["selected"] == {"round": best["round"], **evaluation(best)}


class Stop(Exception):
    pass


class Counted:
    """A method's `round` that counts its calls, and dies in the one after `limit`."""

    def __init__(self, round, calls, limit):
        self._round, self._calls, self._limit = round, calls, limit

    def lower(self, *args, **static):
        program = self._round.lower(*args, **static).compile()
        return SimpleNamespace(compile=lambda: CountedProgram(program, self._calls, self._limit))


class CountedProgram:
    def __init__(self, program, calls, limit):
        self._program, self._calls, self._limit = program, calls, limit

    def __getattr__(self, name):  # what the meter reads
        return getattr(self._program, name)

    def __call__(self, *args):
        if len(self._calls) == self._limit:
            raise Stop
        self._calls.append(1)
        return self._program(*args)


def counted(phases, limit=None):
    """The phases, and the list that grows by one with every round."""
    calls, counting = [], []
    for method, samples, steps in phases:
        counted_method = dataclasses.replace(method)
        vars(counted_method)["round"] = Counted(method.round, calls, limit)
        counting.append((counted_method, samples, steps))
    return counting, calls


def killed_and_resumed(make, config, workdir, rounds, last_checkpoint):
    """Dies after `rounds` rounds, and must resume at the last checkpoint."""
    dying, _ = counted(make(), rounds)
    with pytest.raises(Stop):
        run(dying, TASK, dataset(), config, workdir)
    resumed, calls = counted(make())
    results = run(resumed, TASK, dataset(), config, workdir)
    assert len(calls) == results.summary["rounds"] - last_checkpoint, (
        "it resumed, and did not start again"
    )
    return results


@pytest.mark.parametrize(
    "rounds,last_checkpoint", also_slowly([(5, 4)], [(3, 2), (5, 4), (7, 6), (1, 0)])
)
def test_law_10_a_run_that_resumes_equals_the_unbroken_run_bit_for_bit(
    tmp_path, rounds, last_checkpoint
):
    """The run has two rounds of warm-up, four of IST and two dense ones.

    It is killed in every phase, and before the first checkpoint.
    """
    config = LoopConfig(eval_every=3, checkpoint_every=2, eval_subnets=True)
    unbroken = run(phases(), TASK, dataset(), config, tmp_path / "unbroken")
    resumed = killed_and_resumed(phases, config, tmp_path / "killed", rounds, last_checkpoint)
    chex.assert_trees_all_equal(resumed.params, unbroken.params)
    assert rows_of(tmp_path / "killed") == rows_of(tmp_path / "unbroken")
    timed = [
        json.loads(line)
        for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()
    ]
    for name in ("seconds", "compile_seconds", "evaluation_seconds"):
        so_far = [row[name] for row in timed if name in row] + [resumed.summary[name]]
        assert so_far == sorted(so_far) and so_far[0] > 0, f"{name} accumulates over the kill"
    for name in ("selected", "last", "samples_seen", "bytes_per_device", "rounds"):
        assert resumed.summary[name] == unbroken.summary[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_law_10_every_method_resumes_where_it_stopped(tmp_path, name):
    def make():
        return [(METHODS[name](4), 9 * SAMPLES, 3)]

    unbroken = run(make(), TASK, dataset(), CONFIG)
    chex.assert_trees_all_equal(
        killed_and_resumed(make, CONFIG, tmp_path, 2, 2).params, unbroken.params
    )


def on_devices(make, devices):
    place = sharded(subnet_mesh(devices)) if devices else None
    return [(ist(make(4), TASK, SGD, batch_size=BATCH, placement=place), 12 * SAMPLES, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("before,after", [(4, 2), (2, 4), (4, 0)])
def test_law_10_a_checkpoint_restores_on_another_device_count(tmp_path, before, after):
    dying, _ = counted(on_devices(two_groups, before), 2)
    with pytest.raises(Stop):
        run(dying, TASK, dataset(), CONFIG, tmp_path)
    resumed, calls = counted(on_devices(two_groups, after))
    results = run(resumed, TASK, dataset(), CONFIG, tmp_path)
    assert len(calls) == 2
    unbroken = run(on_devices(two_groups, 0), TASK, dataset(), CONFIG)
    chex.assert_trees_all_close(
        jax.device_get(results.params), jax.device_get(unbroken.params), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("before,after", [(4, 0), (0, 4)])
def test_law_10_a_checkpoint_of_uneven_groups_restores_with_another_padding(
    tmp_path, before, after
):
    uneven = DECOMPOSITIONS["mlp-uneven"]
    dying, _ = counted(on_devices(uneven, before), 2)
    with pytest.raises(Stop):
        run(dying, TASK, dataset(), CONFIG, tmp_path)
    resumed, calls = counted(on_devices(uneven, after))
    results = run(resumed, TASK, dataset(), CONFIG, tmp_path)
    assert len(calls) == 2
    unbroken = run(on_devices(uneven, 0), TASK, dataset(), CONFIG)
    chex.assert_trees_all_close(
        jax.device_get(results.params), jax.device_get(unbroken.params), rtol=1e-4, atol=1e-5
    )


def test_members_of_an_ensemble_send_nothing_and_are_compared_with_nothing(tmp_path):
    members = ensemble(two_groups(4), TASK, SGD, batch_size=BATCH)
    run([(members, 3 * SAMPLES, 3)], TASK, dataset(), LoopConfig(eval_every=1), tmp_path)
    (row,) = rows_of(tmp_path)
    assert {name: value for name, value in row.items() if name.startswith("bytes")} == {
        "bytes_per_device": 0.0,
        "bytes_per_device_lower_bound": 0.0,
        "bytes_per_device_all_reduce": 0.0,
    }


def test_phases_may_use_different_devices():
    place = sharded(subnet_mesh(2))
    made = [
        (ist(two_groups(4), TASK, SGD, batch_size=BATCH), 3 * SAMPLES, 3),
        (
            data_parallel(
                two_groups(4), TASK, SGD, num_workers=4, batch_size=BATCH, placement=place
            ),
            3 * SAMPLES,
            3,
        ),
    ]
    assert run(made, TASK, dataset()).summary["local_steps"] == 6


def test_a_phase_needs_samples_and_steps():
    for samples, steps in ((0, 3), (10, 0)):
        with pytest.raises(ValueError, match="at least one sample and one local step"):
            run([(METHODS["ist"](4), samples, steps)], TASK, dataset())


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    def make():
        return [(METHODS["ist"](4), 6 * SAMPLES, 3)]

    first, again, other = (
        run(make(), TASK, dataset(), LoopConfig(seed=seed)) for seed in (0, 0, 1)
    )
    chex.assert_trees_all_equal(first.params, again.params)
    assert any(
        (a != b).any() for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params))
    )


def test_samples_are_rounded_up_to_whole_steps():
    results = run([(METHODS["ist"](4), 3 * SAMPLES + 1, 2)], TASK, dataset(), LoopConfig())
    assert results.summary["samples_seen"] == 4 * SAMPLES


def test_a_loss_that_is_not_finite_stops_the_run_and_names_round_and_subnetwork():
    method = ist(two_groups(2), TASK, optax.sgd(1e30), batch_size=BATCH)
    with pytest.raises(
        NonFiniteLossError,
        match=r"the loss of subnetwork \d became .* in local step \d of round \d",
    ):
        run([(method, 100 * SAMPLES, 3)], TASK, dataset())


def test_parameters_that_are_not_finite_are_not_saved_though_the_loss_still_is(tmp_path):
    """One step from finite parameters to infinite ones: the loss shows it a round later."""
    overflowing = optax.stateless(
        lambda updates, _: jax.tree.map(lambda u: u * np.float32(np.inf), updates)
    )
    method = ist(two_groups(2), TASK, overflowing, batch_size=BATCH)
    with pytest.raises(NonFiniteLossError, match=r"kernel\b.* became nan or infinite in round 1"):
        run(
            [(method, 100 * SAMPLES, 1)],
            TASK,
            dataset(),
            LoopConfig(checkpoint_every=1),
            tmp_path,
        )
    assert Checkpoints(tmp_path / "checkpoints").run_state()["round"] == 0, (
        "the last good checkpoint stands"
    )


def test_a_loss_that_is_not_finite_leaves_the_checkpoints_before_it(tmp_path):
    """Fine for four steps, then a learning rate that diverges."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {4: 1e30}))
    with pytest.raises(NonFiniteLossError):
        run(
            [(ist(two_groups(4), TASK, tx, batch_size=BATCH), 90 * SAMPLES, 2)],
            TASK,
            dataset(),
            CONFIG,
            tmp_path,
        )
    assert Checkpoints(tmp_path / "checkpoints").run_state()["round"] == 2


@pytest.mark.parametrize("name", also_slowly(["ist", "data-parallel"], sorted(METHODS)))
def test_a_run_starts_from_given_parameters(name):
    method = METHODS[name](4)
    given = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, leaf.dtype), method.shapes())
    state = method.fresh(jax.random.key(0), Start(given))
    chex.assert_trees_all_equal(params_of(method, state), given)
    begun = run([(method, 3 * SAMPLES, 3)], TASK, dataset(), CONFIG, start=Start(given))
    assert begun.summary["rounds"] == 1
    wider = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2)), given)
    with pytest.raises(StartError, match="has shape .* there and .* here"):
        run([(method, SAMPLES, 1)], TASK, dataset(), start=Start(wider))


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_and_resumes_from_there(tmp_path):
    config = LoopConfig(eval_every=3, eval_subnets=True)
    unbroken = run(phases(), TASK, dataset(), config)
    asked = iter([False, False, False, True])
    with pytest.raises(Stopped, match="round 4"):
        run(phases(), TASK, dataset(), config, tmp_path, stop=lambda: next(asked))
    resumed, calls = counted(phases())
    results = run(resumed, TASK, dataset(), config, tmp_path)
    assert len(calls) == 4
    chex.assert_trees_all_equal(results.params, unbroken.params)
    assert [row["train"] for row in results.history] == [row["train"] for row in unbroken.history]


def test_terminal_lines_and_progress_bar(tmp_path):
    row = dict(round=3, samples_seen=60, train={"loss": 1.5})
    evaluated = row | dict(
        validation={"error": 0.5},
        test={"error": 0.25},
        test_subnets={"error": [0.5, 0.5]},
        samples_per_second=9.0,
    )
    plain = io.StringIO()
    terminal = Terminal(100, "ist", file=plain)
    terminal.log({}, "resuming")
    terminal.log(row)
    terminal.log(evaluated)
    assert plain.getvalue() == (
        "ist: resuming\nist round 3 samples 60 train loss 1.5000 "
        "validation error 0.5000 test error 0.2500 9 samples/s\n"
    )

    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    terminal = Terminal(100, "ist", file=screen)
    terminal.log({"round": 1, "samples_seen": 20}, "resuming")
    terminal.log(row)
    terminal.log(evaluated)
    terminal.close()
    for part in ("round 3", "loss 1.500", "60%", "samples/s", "left", "test error 0.2500"):
        assert part in screen.getvalue(), part
