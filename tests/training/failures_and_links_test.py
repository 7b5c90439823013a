"""Workers that fail, and links that are slow, in the records of runs."""

import collections
import json
import pathlib

import jax
import numpy as np
import pytest
from cases import BATCH, SGD, TASK, dataset, placements, two_groups

from ist_jax import LoopConfig, data_parallel, ist, replicated, run
from ist_jax.analysis.links import Link, check_simulated
from ist_jax.cli.commands import run as run_command
from ist_jax.cli.config import ConfigError
from ist_jax.cli.quantities import bytes_per_second, link, seconds
from ist_jax.cli.records import curves, results, tables
from ist_jax.core.placement import looped, sharded, subnet_mesh
from ist_jax.training.failures import Failures
from ist_jax.training.run_state import RunState

SAMPLES = 4 * BATCH


def test_failures_are_drawn_at_the_rate_or_scheduled_and_repeat():
    weight_RxS = np.array([Failures(0.25).weights(3, r, 8) for r in range(2000)])
    assert weight_RxS.dtype == np.float32 and set(np.unique(weight_RxS)) == {0, 1}
    assert weight_RxS.mean() == pytest.approx(0.75, abs=0.01)
    assert (weight_RxS.mean(axis=0) > 0.7).all(), "every worker fails at that rate"
    assert not (weight_RxS == weight_RxS[:, :1]).all(), "independently of the others"
    np.testing.assert_array_equal(Failures(0.25).weights(3, 7, 8), weight_RxS[7])
    scheduled = Failures(schedule=((2, 0), (2, 3), (5, 1)))
    assert [scheduled.weights(0, r, 4).tolist() for r in (1, 2, 5)] == [
        [1, 1, 1, 1],
        [0, 1, 1, 0],
        [1, 0, 1, 1],
    ]
    assert Failures().weights(0, 1, 4).all() and not Failures(1.0).weights(0, 1, 4).any()


def test_a_failed_worker_is_counted_and_its_units_keep_their_values(tmp_path):
    """All workers fail in the second of two rounds: the run ends where one round ends."""
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH)
    everybody = Failures(schedule=tuple((2, worker) for worker in range(4)))
    two = run(
        [(method, 6 * SAMPLES, 3)],
        TASK,
        dataset(),
        LoopConfig(eval_every=1, failures=everybody),
        tmp_path,
    )
    one = run([(method, 3 * SAMPLES, 3)], TASK, dataset(), LoopConfig(eval_every=1))
    jax.tree.map(np.testing.assert_array_equal, two.params, one.params)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["failed_workers"] for row in rows] == [0, 4] and two.summary["failed_workers"] == 4


@pytest.mark.parametrize(
    "place", [looped, lambda: sharded(subnet_mesh(4))], ids=["one device", "mesh"]
)
def test_which_workers_fail_changes_no_program(place):
    method, data = ist(two_groups(4), TASK, SGD, batch_size=BATCH, placement=place()), dataset()
    state, view = (
        method.fresh(jax.random.key(0)),
        next(data.views(jax.random.key(1), 4, method.sharding, [range(1)])),
    )
    for weights in ([1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]):
        weight_S, key = jax.device_put(
            (np.array(weights, np.float32), jax.random.key(2)), method.sharding
        )
        state, _ = method.round(state, view, key, weight_S, steps=2)
    assert method.round._cache_size() == 1


def test_simulated_seconds_are_compute_bytes_and_latency_by_hand():
    """A slow link: 1 kB/s, 0.5 s. IST exchanges once a round; data parallel at every step."""
    slow, config = Link(1000.0, 0.5), {"eval_every": 0}
    method = ist(two_groups(4), TASK, SGD, batch_size=BATCH)
    parallel = data_parallel(
        replicated(two_groups(4), 4), TASK, SGD, num_workers=4, batch_size=BATCH
    )
    for made, syncs, messages in ((method, 2, 3), (parallel, 6, 6)):
        summary = run(
            [(made, 6 * SAMPLES, 3)], TASK, dataset(), LoopConfig(link=slow, **config)
        ).summary
        on_link = syncs * (made.costs.bytes_per_sync / 1000 + messages * 0.5)
        assert summary["simulated_seconds"] == pytest.approx(summary["seconds"] / 4 + on_link)
    assert (
        run([(method, 6 * SAMPLES, 3)], TASK, dataset(), LoopConfig(**config)).summary[
            "simulated_seconds"
        ]
        is None
    )


def test_simulated_seconds_do_not_depend_on_how_a_machine_is_cut_into_cpu_devices():
    """They share its cores: a worker would have them to itself."""
    for place in ("looped", "sharded-2", "sharded-4"):
        method = ist(two_groups(4), TASK, SGD, batch_size=BATCH, placement=placements()[place]())
        run_state = RunState()
        run_state.use_devices(method.sharding, method.num_workers)
        run_state.add_seconds("train", 8.0)
        assert (run_state.seconds, run_state.device_seconds) == (8.0, 2.0)


def test_a_link_is_not_simulated_where_the_time_of_training_has_a_real_one():
    """It would be counted twice. CPU devices of one process exchange in their memory."""
    Device = collections.namedtuple("Device", "platform process_index id")
    check_simulated(jax.devices())
    check_simulated([Device("gpu", 0, 5)])
    for devices in (
        [Device("gpu", 0, 0), Device("gpu", 0, 1)],
        [Device("cpu", 0, 0), Device("cpu", 0, 1), Device("cpu", 1, 2), Device("cpu", 1, 3)],
    ):
        with pytest.raises(ValueError, match="these 2 devices exchange over a real one"):
            check_simulated(devices)


def test_the_time_of_an_inner_section_is_not_part_of_the_outer_one(monkeypatch):
    now = iter([0.0, 1.0, 3.0, 3.5])
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    run_state = RunState()
    with run_state.timed("train"), run_state.timed("compile"):
        pass
    assert (run_state.seconds, run_state.compile_seconds) == (1.5, 2.0)
    with pytest.raises(ValueError, match="train, compile or evaluate, not 'tain'"):
        run_state.add_seconds("tain", 1.0)


def test_quantities():
    assert bytes_per_second("1Gbps") == 1.25e8 and bytes_per_second("2.5 Mbps") == 312500
    assert seconds("1ms") == 0.001 and seconds("0s") == 0 and seconds("1e-3s") == 0.001
    assert link("", "nonsense") is None and link("8bps", "2s") == Link(1.0, 2.0)
    for text in ("1", "Gbps", "-1Gbps", "1gbps", "1.2.3Gbps", "0bps"):
        with pytest.raises(ConfigError, match="link.bandwidth is"):
            bytes_per_second(text)


@pytest.mark.slow
def test_reports_show_simulated_seconds_only_where_all_runs_had_the_same_link(tmp_path, capsys):
    digits = "experiments/demo/digits.py"
    small = ["--epochs=2", "--model.hidden", "16"]
    root = pathlib.Path(__file__).parent.parent.parent
    for name, extra in (("a", ["1Gbps"]), ("b", ["1Gbps"]), ("c", ["10Mbps"]), ("d", [])):
        more = [f"--link.bandwidth={speed}" for speed in extra] + [f"--seed={'abcd'.index(name)}"]
        assert (
            run_command.main(
                ["run", f"--config={root / digits}", *small, *more, f"--workdir={tmp_path / name}"]
            )
            == 0
        )

    def read(*names):
        return [results.read_workdir(tmp_path / name) for name in names]

    def shown(*names):
        return tables.table(read(*names)).titles[-1]

    assert shown("a", "b") == "over the link, simulated (s)"
    assert shown("a", "c") != "over the link, simulated (s)" != shown("a", "d")
    curves.draw(read("a", "b"), tmp_path / "four.png")
    curves.draw(read("a", "d"), tmp_path / "three.png")

    def width(name):
        return int.from_bytes((tmp_path / name).read_bytes()[16:20], "big")

    assert width("four.png") > width("three.png")
