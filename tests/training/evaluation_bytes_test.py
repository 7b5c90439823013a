"""The bytes that devices send to evaluate, to start and to time, apart from those of training."""

import os
import pathlib
import shutil
import socket
import subprocess
import sys

import jax
import pytest
from cases import BATCH, METHODS, ROOT, TASK, dataset, placements
from finished_runs import finished
from processes import ended

from ist_jax import LoopConfig, run
from ist_jax.analysis import hlo, meter
from ist_jax.cli.commands.launch_local import free_port
from ist_jax.cli.records.columns import named_columns
from ist_jax.training.evaluation import evaluate_chunks
from ist_jax.training.evaluator import SPLITS
from ist_jax.training.loop import Stopped
from ist_jax.training.run_state import RunState

SAMPLES = 4 * BATCH
HERE = pathlib.Path(__file__).parent.parent
SENT = ("bytes_per_device", "evaluation_bytes_per_device", "other_bytes_per_device")


def on_a_mesh(name="ist", devices=4):
    return METHODS[name](4, placements()[f"sharded-{devices}"]())


def bytes_of(function, *given):
    return hlo.bytes_sent(jax.jit(function).lower(*given).compile().as_text())


@pytest.mark.slow
@pytest.mark.parametrize("subnets", [False, True])
def test_evaluation_sends_the_bytes_of_its_program_whenever_it_runs(subnets, tmp_path):
    method, data = on_a_mesh(), dataset()
    config = LoopConfig(eval_every=1, calibration_examples=20, eval_subnets=subnets)
    results = run([(method, 9 * SAMPLES, 3)], TASK, data, config, tmp_path)
    (chunks,) = data.chunks(SPLITS, method.sharding, config.eval_batch_size)
    calibration = data.calibration_batch(20, method.sharding)

    def evaluation(*given):
        options = dict(batch_size=config.eval_batch_size, subnets=subnets)
        return evaluate_chunks(method, TASK, *given, **options)

    once = bytes_of(evaluation, method.fresh(ROOT), chunks, calibration)
    assert once > 0
    sent = [row["evaluation_bytes_per_device"] for row in results.history]
    assert sent == pytest.approx([once, 2 * once, 3 * once])
    assert results.summary["evaluation_bytes_per_device"] == sent[-1]
    assert results.summary["bytes_per_device"] == pytest.approx(3 * method.costs.bytes_per_sync), (
        "training's are as they were"
    )


@pytest.mark.slow
def test_starting_a_phase_and_timing_synchronisations_are_other_bytes():
    methods = on_a_mesh("local-sgd"), on_a_mesh("ist-carry")
    phases = [(method, 3 * SAMPLES, 3) for method in methods]
    untimed, timed = (
        run(phases, TASK, dataset(), LoopConfig(eval_every=0, time_syncs=times)).summary
        for times in (False, True)
    )
    first = bytes_of(methods[0].init, *methods[0].init_arguments(ROOT, None))
    start = methods[0].end(methods[0].fresh(ROOT))
    second = bytes_of(methods[1].init, *methods[1].init_arguments(ROOT, start))
    assert second > 0, "units go from their homes to their first holders"
    assert untimed["other_bytes_per_device"] == pytest.approx(first + second)
    more = timed["other_bytes_per_device"] - untimed["other_bytes_per_device"]
    synced = meter.TIMED_SYNCS * sum(method.costs.bytes_per_sync for method in methods)
    small = meter.TIMED_SYNCS * 2 * 8 * 64  # a lost worker's share, a count
    assert synced <= more <= synced + small


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_law_10_bytes_of_a_run_that_resumes_are_those_of_the_unbroken_one(rounds, tmp_path):
    def train(workdir, stop=lambda: False):
        phases = [(on_a_mesh("local-sgd"), 6 * SAMPLES, 3), (on_a_mesh(), 9 * SAMPLES, 3)]
        config = LoopConfig(eval_every=2, time_syncs=True)
        return run(phases, TASK, dataset(), config, workdir, stop=stop)

    unbroken = train(tmp_path / "unbroken")
    assert all(unbroken.summary[name] > 0 for name in SENT)
    asked = iter([False] * (rounds - 1) + [True])
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", lambda: next(asked))
    resumed = train(tmp_path / "stopped")
    for one, other in zip(resumed.history, unbroken.history, strict=True):
        assert [one.get(name) for name in SENT] == [other.get(name) for name in SENT]
    assert all(resumed.summary[name] == unbroken.summary[name] for name in SENT)


@pytest.mark.parametrize("place", ["sharded-2", "looped"])
def test_bytes_are_not_counted_where_workers_share_a_device(place):
    method = METHODS["ist"](4, placements()[place]())
    results = run([(method, 3 * SAMPLES, 3)], TASK, dataset(), LoopConfig(eval_every=1))
    for name in SENT[1:]:
        assert results.summary[name] is None and results.history[-1][name] is None
    assert results.summary["bytes_per_device"] > 0, "by arithmetic, as ever"


def test_a_single_device_sends_nothing():
    results = run([(METHODS["ist"](1), 3 * BATCH, 3)], TASK, dataset(), LoopConfig(eval_every=1))
    assert [results.summary[name] for name in SENT] == [0.0, 0.0, 0.0]


def test_a_sum_with_an_unknown_part_is_unknown():
    run_state = RunState()
    for sent, so_far in ((2.0, 2.0), (3.0, 5.0), (None, None), (4.0, None)):
        run_state.add_sent("evaluation", sent)
        assert run_state.evaluation_bytes_per_device == so_far
    assert run_state.other_bytes_per_device == 0.0


def test_a_table_has_the_bytes_of_evaluation_if_a_page_names_them():
    (column,) = named_columns(["evaluation: MB sent per device"])
    run = finished()
    counted = run._replace(summary=run.summary | {"evaluation_bytes_per_device": 2.5e6})
    assert column.cell([counted]).text == "2.50" and column.cell([counted]).mean == 2.5
    assert column.cell([run]).text == "not measured"
    assert column.cell([counted, run]).text == "not measured"


NETWORK = ["unshare", "--user", "--map-root-user", "--net"]  # a loopback interface without others


def has_networks():
    tools = shutil.which("unshare") and shutil.which("ip")
    own = socket.gethostbyname(socket.gethostname()).startswith("127.")
    return tools and own and not subprocess.run([*NETWORK, "true"], capture_output=True).returncode


@pytest.mark.slow
def test_an_interface_counts_the_bytes_of_evaluation_that_the_meter_counts():
    """Two processes evaluate many times more in one run than in another, and are otherwise equal.

    The interface counts headers, too, and what processes agree on between rounds.
    """
    if not has_networks():
        pytest.skip("this user may not make a network, or the host's name is not the loopback's")
    program = f"{sys.executable} {HERE / 'evaluating_processes.py'} {free_port()}"
    script = f"ip link set lo up && ({program} 1 & exec {program} 0)"
    environment = os.environ | {"PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parent}"}
    started = subprocess.Popen(
        [*NETWORK, "sh", "-c", script],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ((printed, _),) = ended([started])
    assert started.returncode == 0, printed
    by_meter, by_interface = map(float, printed.split("bytes sent:")[1].split()[:2])
    assert by_meter > 1e6 and by_meter <= by_interface < 1.2 * by_meter, printed
