"""The loop: records, budgets, phases, resuming, divergence."""

import json

import chex
import jax
import numpy as np
import optax
import pytest
from cases import ALGORITHMS, BATCH, SGD, TASK, dataset, two_groups

from ist_jax import LoopConfig, data_parallel, ist, run, undivided
from ist_jax.loop import NonFiniteLossError

TIMING = ("seconds", "compile_seconds", "evaluation_seconds", "samples_per_second")
CONFIG = LoopConfig(eval_every=2, checkpoint_every=2, eval_subnets=True)
SAMPLES = 4 * BATCH  # of one local step of four workers


def rows_of(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def phases():
    """Warm-up, IST and a dense phase, with a schedule that drops in the middle of a round."""
    tx = optax.sgd(optax.piecewise_constant_schedule(0.1, {10: 0.1}), 0.9)
    whole = undivided(two_groups(4), 4)
    return [
        (ist(whole, TASK, tx, batch_size=BATCH), 4 * SAMPLES, 3),
        (ist(two_groups(4), TASK, tx, batch_size=BATCH), 11 * SAMPLES, 3),
        (data_parallel(whole, TASK, tx, num_workers=4, batch_size=BATCH), 4 * SAMPLES, 3),
    ]


def test_records_count_samples_bytes_and_rounds(tmp_path):
    made = phases()
    results = run(made, TASK, dataset(), CONFIG, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == [2, 4, 6, 8]
    assert rows[-1]["samples_seen"] == 19 * SAMPLES == results.summary["samples_seen"]
    sync = [algorithm.costs.bytes_per_sync for algorithm, _, _ in made]
    assert rows[-1]["bytes_per_device"] == pytest.approx(2 * sync[0] + 4 * sync[1] + 4 * sync[2])
    assert results.summary["local_steps"] == 19 and results.summary["rounds"] == 8
    assert json.loads((tmp_path / "summary.json").read_text()) == results.summary
    assert all(0 <= row["test_accuracy"] <= 1 and np.isfinite(row["train_loss"]) for row in rows)
    assert all(len(row["loss_per_subnet"]) == 4 == len(row["subnet_test_accuracy"]) for row in rows)
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert results.summary["test_accuracy_at_best_validation"] == best["test_accuracy"]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_law_10_a_run_that_goes_on_equals_the_unbroken_run_bit_for_bit(tmp_path):
    """Stopped after every checkpoint in turn: in the first phase, the middle one, and the last."""
    unbroken = run(phases(), TASK, dataset(), CONFIG, tmp_path / "unbroken")
    for last in (2, 4, 6):
        workdir = tmp_path / str(last)
        with pytest.raises(Stop):
            run(stopping(phases(), after=last), TASK, dataset(), CONFIG, workdir)
        resumed = run(phases(), TASK, dataset(), CONFIG, workdir)
        chex.assert_trees_all_equal(resumed.params, unbroken.params)
        assert rows_of(workdir) == rows_of(tmp_path / "unbroken")
        for name in ("test_accuracy_at_best_validation", "samples_seen", "bytes_per_device", "rounds"):
            assert resumed.summary[name] == unbroken.summary[name]


class Stop(Exception):
    pass


def stopping(phases, after):
    """The phases, of which round `after + 1` cannot be compiled: the run dies there."""
    seen = [0]

    class Round:
        def __init__(self, round):
            self._round = round

        def lower(self, *args, **static):
            compiled = self._round.lower(*args, **static)

            class Lowered:
                def compile(self):
                    program = compiled.compile()

                    def call(*args):
                        seen[0] += 1
                        if seen[0] > after + 1:
                            raise Stop
                        return program(*args)

                    return call

            return Lowered()

    return [(algorithm._replace(round=Round(algorithm.round)), samples, steps) for algorithm, samples, steps in phases]


def test_law_10_a_checkpoint_restores_on_another_device_count(tmp_path):
    from ist_jax.placement import sharded, subnet_mesh

    results = {}
    for devices in (4, 2):
        place = sharded(subnet_mesh(devices))
        made = [(ist(two_groups(4), TASK, SGD, batch_size=BATCH, placement=place), 12 * SAMPLES, 3)]
        with pytest.raises(Stop) if devices == 4 else pytest.MonkeyPatch.context():
            results[devices] = run(stopping(made, 2) if devices == 4 else made, TASK, dataset(), CONFIG, tmp_path)
    made = [(ist(two_groups(4), TASK, SGD, batch_size=BATCH), 12 * SAMPLES, 3)]
    unbroken = run(made, TASK, dataset(), CONFIG)
    chex.assert_trees_all_close(results[2].params, unbroken.params, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    make = lambda: [(ALGORITHMS["ist"](4), 6 * SAMPLES, 3)]
    first, again, other = (run(make(), TASK, dataset(), LoopConfig(seed=seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first.params, again.params)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(other.params)))


def test_samples_are_rounded_up_to_whole_steps():
    results = run([(ALGORITHMS["ist"](4), 3 * SAMPLES + 1, 2)], TASK, dataset(), LoopConfig())
    assert results.summary["samples_seen"] == 4 * SAMPLES


def test_a_loss_that_is_not_finite_stops_the_run_and_names_round_and_subnetwork():
    algorithm = ist(two_groups(2), TASK, optax.sgd(1e30), batch_size=BATCH)
    with pytest.raises(NonFiniteLossError, match=r"the loss of subnetwork \d became .* in local step \d of round \d"):
        run([(algorithm, 100 * SAMPLES, 3)], TASK, dataset())


def test_terminal_lines_and_progress_bar(tmp_path):
    import io

    from ist_jax.writers import Terminal

    row = dict(round=3, samples_seen=10, train_loss=1.5, validation_accuracy=0.5, test_accuracy=0.25, samples_per_second=9.0)
    plain = io.StringIO()
    Terminal(100, "ist", file=plain).write(row)
    assert plain.getvalue().count("\n") == 1 and "round 3" in plain.getvalue() and "0.2500" in plain.getvalue()

    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    terminal = Terminal(100, "ist", file=screen)
    terminal.advance(60, 3, 1.5)
    terminal.write(row)
    terminal.close()
    for part in ("round 3", "loss 1.500", "60%", "samples/s", "left", "test 0.2500"):
        assert part in screen.getvalue(), part
