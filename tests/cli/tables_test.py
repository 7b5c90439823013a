"""Tables of runs: rows, columns, and what they say of other metrics than an accuracy."""

import csv

import pytest
from finished_runs import finished, write_workdir

from ist_jax.cli.commands import report
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import reached, tables
from ist_jax.cli.records.columns import failed_share
from ist_jax.cli.records.labels import grouped
from ist_jax.cli.records.metric import metric_of
from ist_jax.cli.records.reached import Target


def test_the_report_has_a_row_per_method_with_mean_and_deviation(tmp_path, capsys):
    for seed, last in ((0, 0.9), (1, 0.8)):
        write_workdir(tmp_path / f"ist {seed}", finished({"seed": seed}, (0.5, last)))
    write_workdir(tmp_path / "single 0", finished({"method": "single"}))
    assert report.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith((tmp_path / "table.md").read_text())
    header, *rows = (tmp_path / "table.md").read_text().splitlines()
    assert "| method | seeds | test accuracy, last (%) | at best validation (%) |" in header
    assert rows[1].startswith("| ist | 2 | 85.00 ± 7.07 | 85.00 ± 7.07 |")
    assert rows[2].startswith("| single | 1 | 90.00 | 90.00 |")


def test_a_csv_holds_numbers_with_deviations_in_columns_apart(tmp_path):
    runs = [finished({"seed": seed}, (0.5, last)) for seed, last in ((0, 0.9), (1, 0.8))]
    (tmp_path / "table.csv").write_text(tables.table(runs).csv())
    with (tmp_path / "table.csv").open() as file:
        header, row = csv.reader(file)
    cells = dict(zip(header, row))
    assert cells.pop("method") == "ist"
    assert float(cells["test accuracy, last (%)"]) == pytest.approx(85)
    assert float(cells["test accuracy, last (%), deviation"]) == pytest.approx(10 / 2**0.5)
    assert "samples, deviation" not in cells
    assert all(value == "" or float(value) is not None for value in cells.values())


def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own():
    def make(method, rate, seed):
        return finished({"method": method, "optimizer.learning_rate": rate, "seed": seed})

    runs = [make("ist", 0.1, 0), make("ist", 0.1, 1), make("ist", 0.3, 0), make("single", 0.5, 0)]
    assert {label: len(group) for label, group in grouped(runs).items()} == {
        "ist, optimizer.learning_rate=0.1": 2,
        "ist, optimizer.learning_rate=0.3": 1,
        "single": 1,
    }


def test_a_label_tells_placements_apart_only_if_a_seed_was_run_with_both():
    def made(seed, placement):
        return finished({"seed": seed, "placement": placement})

    assert list(grouped([made(0, "looped"), made(1, "vmapped")])) == ["ist"]
    both = grouped([made(0, "looped"), made(0, "vmapped")])
    assert list(both) == ["ist, placement=looped", "ist, placement=vmapped"]


def test_a_metric_that_is_no_share_is_printed_without_per_cent():
    runs = [finished({"seed": s}, (9.0, 4.0 + s), metric="mse", best="min") for s in (0, 1)]
    table = tables.table(runs)
    assert table.titles[1:4] == ["test mse, last", "at best validation", "best validation"]
    assert table.rows["ist"][1].text == "4.5000 ± 0.7071"
    assert not any("accuracy" in title for title in table.titles)


def test_the_record_says_which_unit_a_metric_has():
    shown = lambda **given: metric_of([finished(**given)])[2:]
    assert shown(metric="f1", unit="share") == (100, 2, "%")
    assert shown(metric="r2", unit="") == (1, 4, "")  # between 0 and 1, and no share
    assert shown(metric="loss", best="min", unit="nats") == (1, 4, "nats")
    runs = [finished(scores=(9.0, 4.0), metric="loss", best="min", unit="nats")]
    assert tables.table(runs).titles[1] == "test loss, last (nats)"
    title = target(runs, 4.5).title
    assert title == "MB to 4.5 nats" and reached.targets_of([title], metric_of(runs))


def test_records_of_earlier_versions_have_no_units_and_are_of_classifiers():
    assert metric_of([finished()]) == metric_of([finished(unit="share")])
    assert metric_of([finished(), finished({"seed": 1}, unit="share")]).unit == "%"
    assert metric_of([finished(metric="f1")]).unit == ""


def test_runs_that_are_selected_by_different_metrics_share_no_table():
    with pytest.raises(ConfigError, match=r"selected by one metric .*, not by accuracy, f1: make"):
        tables.table([finished(), finished({"seed": 1}, metric="f1")])


def test_the_metric_after_as_many_seconds_as_the_quickest_method_took():
    quick = finished(scores=(0.5, 0.9), seconds=(1.0, 2.0))
    slow = finished({"method": "single"}, scores=(0.3, 0.6, 0.7), seconds=(1.5, 2.5, 3.5))
    late = finished({"method": "diloco"}, scores=(0.6,), seconds=(9.0,))
    table = tables.table([quick, slow, late])
    position = table.titles.index("test accuracy after 2.0 s (%)")
    shown = {label: row[position].text for label, row in table.rows.items()}
    assert shown == {"ist": "90.00", "single": "30.00", "diloco": "not evaluated"}


def target(runs, value, spending="MB"):
    return Target(spending, value, metric_of(runs))


def runs_that_reach_90_percent(method, num_subnets, *megabytes, **fields):
    config = {"method": method, "num_subnets": num_subnets} | fields
    return [
        finished(config | {"seed": seed}, (0.9,), bytes_per_device=(1e6 * mb,))
        for seed, mb in enumerate(megabytes)
    ]


def times(groups, percent):
    runs = [run for group in groups.values() for run in group]
    aim = target(runs, percent)
    return {label: reached.times_ist(g, aim, groups).text for label, g in groups.items()}


def test_a_column_says_what_was_spent_when_an_accuracy_was_first_reached():
    runs = [
        finished(scores=(0.5, 0.9, 0.8), bytes_per_device=(1e6, 2e6, 3e6)),
        finished({"seed": 1}, (0.85,), bytes_per_device=(4e6,)),
    ]
    assert reached.reached(runs, target(runs, 85)).text == "3.00 ± 1.41"
    assert reached.reached(runs, target(runs, 90)).text == "1 of 2 reach it"


def test_an_error_is_reached_from_above():
    runs = [finished(scores=(9.0, 4.0, 5.0), metric="mse", best="min")]
    assert reached.reached(runs, target(runs, 4.5)).text == "2.00"
    assert target(runs, 4.5).title == "MB to 4.5"


def test_a_column_says_how_many_times_ists_a_baseline_spent():
    of = runs_that_reach_90_percent
    groups = grouped(
        [*of("ist", 2, 1, 3), *of("local_sgd", 2, 8, 10), *of("ist", 4, 1), *of("local_sgd", 4, 5)]
    )
    assert {label: cell for label, cell in times(groups, 85).items() if cell} == {
        "local_sgd, num_subnets=2": "4.5",
        "local_sgd, num_subnets=4": "5.0",
    }
    assert set(times(groups, 95).values()) == {""}


def test_methods_with_tuned_values_are_compared_by_workers():
    of = runs_that_reach_90_percent
    groups = grouped(
        [
            *of("ist", 2, 2, local_steps=60),
            *of("ist", 4, 1, local_steps=60),
            *of("local_sgd", 2, 6, local_steps=80),
            *of("local_sgd", 4, 5, local_steps=160),
        ]
    )
    factors = times(groups, 85)
    assert sorted(factors.values()) == ["", "", "3.0", "5.0"]
    assert any("local_steps=160" in label for label in factors)
    both = grouped(
        [
            *of("ist", 2, 2, local_steps=60),
            *of("ist", 2, 4, local_steps=20),
            *of("local_sgd", 2, 6, local_steps=80),
            *of("local_sgd", 2, 5, local_steps=160),
        ]
    )
    assert not any(times(both, 85).values()), "which of IST's two is meant is not said"


def test_runs_without_a_link_have_no_simulated_seconds_to_show():
    runs = [finished()]
    with pytest.raises(ConfigError, match="needs simulated_seconds in every run, and one has none"):
        reached.reached(runs, target(runs, 80, "simulated s"))


def test_simulated_seconds_are_shown_only_where_all_runs_had_the_same_link():
    def made(seed, speed):
        return finished(
            {"seed": seed, "link.bandwidth": speed, "link.latency": "1ms"},
            **({"simulated_seconds": (1.0, 2.0)} if speed else {}),
        )

    def shown(*runs):
        return tables.table(runs).titles[-1] == "over the link, simulated (s)"

    assert shown(made(0, "1Gbps"), made(1, "1Gbps"))
    assert not shown(made(0, "1Gbps"), made(1, "10Mbps"))
    assert not shown(made(0, "1Gbps"), made(1, ""))


def test_lost_workers_are_a_share_of_all_in_all_rounds():
    def runs(method):
        made = [finished({"num_subnets": 4, "seed": seed, "method": method}) for seed in (1, 3)]
        counts = [{"rounds": 5, "failed_workers": failed} for failed in (1, 3)]
        return [run._replace(summary=run.summary | count) for run, count in zip(made, counts)]

    assert failed_share(runs("ist")).text == "10.0"
    assert failed_share(runs("single")).text == "40.0", "it has one worker"
    assert "workers failed (%)" in tables.table(runs("ist")).titles


def test_memory_that_was_not_measured_or_differs_is_said():
    runs = [finished({"seed": seed}) for seed in (0, 1)]
    named = ["memory of a device at most (MB)"]
    assert tables.table(runs, named=named).rows["ist"][-1].text == "3.0"
    more = runs[1]._replace(summary=runs[1].summary | {"memory_bytes_per_device": {"peak": 5e6}})
    assert tables.table([runs[0], more], named=named).rows["ist"][-1].text == "3.0 to 5.0"
    none = runs[1]._replace(summary=runs[1].summary | {"memory_bytes_per_device": None})
    assert tables.table([runs[0], none], named=named).rows["ist"][-1].text == "not measured"
