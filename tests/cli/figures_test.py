"""Pictures of runs: one colour per method, readable axes, a PNG and an SVG of each."""

import os

import pytest
from finished_runs import finished

from ist_jax.cli.config import METHOD_NAMES
from ist_jax.cli.records import curves, drawing
from ist_jax.cli.records.pages import drawn_from
from ist_jax.cli.records.pictures import holders, partition
from ist_jax.core.partition import partition as make_partition
from ist_jax.methods import drawn_partitions


def test_every_method_has_a_colour_which_no_other_has():
    assert set(drawing.METHOD_COLOURS) == set(METHOD_NAMES)
    colours = {*drawing.METHOD_COLOURS.values(), drawing.OTHER_COLOUR}
    assert len(colours) == len(METHOD_NAMES) + 1


def test_a_method_has_its_colour_and_its_variants_other_lines():
    first, second = drawing.line_style("ist", 0), drawing.line_style("ist", 1)
    assert first["color"] == second["color"] == drawing.METHOD_COLOURS["ist"]
    assert first["linestyle"] != second["linestyle"]
    again = drawing.line_style("ist", len(drawing.LINES))
    assert again["linestyle"] == first["linestyle"] and again["linewidth"] > first["linewidth"]


def tick_labels(axis):
    axis.figure.canvas.draw()
    low, high = axis.get_view_interval()
    ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels())
    return [label.get_text() for place, label in ticks if low <= place <= high]


@pytest.fixture
def axis():
    plt = drawing.pyplot()
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def test_ticks_are_plain_numbers(axis):
    axis.plot([0, 2_000_000], [1, 1])
    drawing.plain_ticks(axis.xaxis)
    assert "500,000" in tick_labels(axis.xaxis)


def test_logarithmic_ticks_are_plain_numbers_also_on_a_flat_line(axis):
    axis.plot([1, 2], [0.2, 0.2])
    axis.set_yscale("log")
    drawing.plain_log_ticks(axis.yaxis)
    assert "0.2" in tick_labels(axis.yaxis)
    axis.set_ylim(0.1, 1e5)
    drawing.plain_log_ticks(axis.yaxis)
    assert {"0.1", "10", "10,000"} <= set(tick_labels(axis.yaxis))
    assert not any("$" in label for label in tick_labels(axis.yaxis))


def test_workers_are_counted_1_2_4(axis):
    axis.plot([1, 2, 4, 8], [1, 1, 1, 1])
    axis.set_xscale("log")
    drawing.count_ticks(axis.xaxis, [4, 1, 2, 8, 2])
    assert tick_labels(axis.xaxis) == ["1", "2", "4", "8"]


def test_equal_runs_give_equal_files_and_a_png_says_what_it_was_drawn_from(tmp_path):
    runs = [finished({"seed": seed}, (0.5, 0.8 + 0.1 * seed)) for seed in (0, 1)]
    for name in ("a", "b"):
        curves.draw(runs, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert drawn_from(tmp_path / "a.png") == curves.fingerprint(runs)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "a.svg", "b.png", "b.svg"]
    assert curves.fingerprint(runs) != curves.fingerprint(runs[:1])


def test_a_link_that_all_runs_share_has_a_panel():
    def made(seed, speed, **columns):
        link = {"link.bandwidth": speed, "link.latency": "1ms"}
        return finished({"seed": seed} | link, **columns)

    simulated = {"simulated_seconds": (1.0, 2.0)}
    shared = [made(0, "1Gbps", **simulated), made(1, "1Gbps", **simulated)]
    titles = [panel.title for panel in curves.panels_of(shared)]
    assert titles[-1] == "training over 1Gbps, simulated (s)" and len(titles) == 4
    assert len(curves.panels_of([shared[0], made(1, "")])) == 3
    assert len(curves.panels_of(shared, with_seconds=False)) == 3


def test_runs_that_send_nothing_and_metrics_to_minimise_are_drawn(tmp_path):
    silent = finished({"method": "single"}, bytes_per_device=(0.0, 0.0))
    curves.draw([silent], tmp_path / "silent.png")
    curves.draw([finished(), silent], tmp_path / "both.png")
    curves.draw([finished(scores=(9.0, 4.0), metric="mse", best="min")], tmp_path / "mse.png")
    curves.draw([finished(scores=(0.5,))], tmp_path / "one.png")
    drawn = {path.name for path in tmp_path.iterdir() if path.stat().st_size > 1000}
    names = ("silent", "both", "mse", "one")
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_a_picture_that_a_full_disk_has_no_room_for_is_named(tmp_path):
    (tmp_path / f".{os.getpid()}.curves.png").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*curves.png'"):
        curves.draw([finished()], tmp_path / "curves.png")


def test_the_picture_of_a_partition_shows_the_partitions_of_the_run(tmp_path):
    parts = make_partition("balanced", {"unit": 16}, 4)
    shown = holders(parts, "unit", 0, 3)
    assert shown.shape == (3, 16) and (shown >= 0).all()
    for row, indices in zip(shown, drawn_partitions(parts, 0, 3)):
        for subnet in range(4):
            assert (row[indices["unit"][subnet]] == subnet).all()
    assert (shown[0] != shown[1]).any()
    with pytest.raises(ValueError, match="units of 'unit' have several holders"):
        holders(make_partition("balanced", {"unit": 16}, 4, min_units=6), "unit", 0, 1)
    partition(parts, "unit", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
