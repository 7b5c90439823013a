"""The pages are what the kept run records say."""

import json
import pathlib
import re
import shlex

import pytest
from command_line import QUICK

from ist_jax.cli.commands import report, run, sweep
from ist_jax.cli.config import Config, ConfigError
from ist_jax.cli.records import pages, record, tables
from ist_jax.cli.records.pictures import holders, partition
from ist_jax.core.partition import partition as make_partition
from ist_jax.methods import drawn_partitions

ROOT = pathlib.Path(__file__).parent.parent.parent
MADE = re.compile(r"<!-- (table|benchmark|rows) .*?<!-- end -->", re.DOTALL)  # from records
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").rglob("README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_and_picture_is_made_from_its_records(page):
    assert pages.rebuilt(page) == page.read_text(), (
        "python -m ist_jax.cli.commands.report --page makes it anew"
    )
    for records, picture in pages.pictures(page):
        assert pages.drawn_from(picture) == pages.fingerprint(records), (
            f"{picture} is not drawn from {records}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_of_results_is_written_by_hand(page):
    """Columns of numbers are right-aligned; what is not made from records has none."""
    text = page.read_text()
    assert "<!-- table " in text and ("<!-- picture " in text or page.parent.name == "tuning")
    outside = MADE.sub("", text)
    assert "---:" not in outside
    assert not [line for line in outside.splitlines() if line.startswith("|") and "±" in line]


def test_records_are_kept_and_a_page_is_made_from_them(tmp_path):
    for seed in (0, 1):
        assert (
            run.main(
                ["run", *QUICK, f"--config.seed={seed}", f"--workdir={tmp_path}/runs/seed={seed}"]
            )
            == 0
        )
    assert report.main(["report", str(tmp_path / "runs"), f"--keep={tmp_path}/records"]) == 0
    assert {file.name for file in (tmp_path / "records" / "seed=1").iterdir()} == set(pages.KEPT)
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table records | seeds | MB sent -->\n<!-- end -->\n<!-- picture records curves.png -->\nafter\n"
    )
    assert report.main(["report", f"--page={page}"]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| method | seeds | MB sent per device |\n| --- | ---: | ---: |\n| ist | 2 | " in text
    assert pages.rebuilt(page) == text
    assert pages.drawn_from(tmp_path / "curves.png") == pages.fingerprint(tmp_path / "records")
    page.write_text("<!-- table records | memory of a device at most -->\n<!-- end -->\n")
    peak = json.loads((tmp_path / "records" / "seed=0" / "summary.json").read_text())[
        "memory_bytes_per_device"
    ]["peak"]
    assert f"| ist | {peak / 1e6:,.1f} |" in pages.rebuilt(page)
    (tmp_path / "records" / "paper.json").write_text('{"ist": 81.5}')
    page.write_text("<!-- table records | seeds | paper -->\n<!-- end -->\n")
    assert (
        "| method | seeds | paper (%) |\n| --- | ---: | ---: |\n| ist | 2 | 81.50 |"
        in pages.rebuilt(page)
    )
    for content, says in (
        ('{"gist": 1}', "names 'gist', which is no row; rows: ist"),
        ("[1]", "an object of numbers"),
    ):
        (tmp_path / "records" / "paper.json").write_text(content)
        with pytest.raises(ConfigError, match=says):
            pages.rebuilt(page)
    (tmp_path / "records" / "paper.json").unlink()
    metrics = tmp_path / "records" / "seed=0" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"test_accuracy": 0', '"test_accuracy": 1'))
    assert pages.drawn_from(tmp_path / "curves.png") != pages.fingerprint(tmp_path / "records")
    for text, says in (
        ("<!-- table records | colour -->\n<!-- end -->\n", "column 'colour' fits 0 of"),
        ("<!-- table records -->\n", "has an .* of its own"),
        ("<!-- table nowhere -->\n<!-- end -->\n", "holds no run records"),
    ):
        page.write_text(text)
        with pytest.raises(ConfigError, match=says):
            pages.rebuild(page)
    (tmp_path / "more").mkdir()
    (tmp_path / "runs" / "seed=1").rename(tmp_path / "more" / "seed=0")
    with pytest.raises(ConfigError, match="are both kept as"):
        pages.keep([tmp_path / "runs", tmp_path / "more"], tmp_path / "both")


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    for folder, content in (("broken", "{"), ("hollow", "{}"), ("list", "[]")):
        (tmp_path / folder).mkdir()
        for name in pages.KEPT:
            (tmp_path / folder / name).write_text(content)
    for arguments, says in (
        ([], "no finished run (summary.json) in no folder"),
        ([str(tmp_path / "nowhere")], "no finished run"),
        ([str(tmp_path / "broken")], "holds no whole run record"),
        ([str(tmp_path / "hollow")], "holds no whole run record"),
        ([str(tmp_path / "list")], "holds no whole run record"),
        ([f"--page={tmp_path}/none.md"], "there is no such file"),
        (["--pages=x"], "unrecognized arguments"),
    ):
        assert report.main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1


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


COMMAND = re.compile(
    r"^    python -m experiments\.sweep (?P<arguments>(?:.*\\\n)*.*)$", re.MULTILINE
)


def resolved_points(text):
    """The resolved configuration of every run of every sweep command of a page, as config.json keeps it."""
    for match in COMMAND.finditer(text):
        arguments = shlex.split(match["arguments"].replace("\\\n", " "))
        rest = [a for a in arguments if not a.startswith(("--grid=", "--workdir="))]
        for point in sweep.grid(
            [a.removeprefix("--grid=") for a in arguments if a.startswith("--grid=")]
        ):
            chosen = [f"--config.{name}={value}" for name, value in point.items()]
            yield record.as_json(run.parse([*rest, *chosen, "--workdir=x"]).config)


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_record_is_of_a_run_that_a_command_of_its_page_makes(page, monkeypatch):
    """All of its values, but the place of the data and how often it was saved; fields newer than it have their default."""
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    if "make demo" in text:
        makefile = (ROOT / "Makefile").read_text()
        text += (
            "\n    python"
            + makefile[makefile.index(" -m ist_jax.cli.commands.sweep") :]
            .split("\n\n")[0]
            .replace("\n\t", "\n")
            + "\n"
        )
    free = {
        "data.dir": "",
        "checkpoint_every": 0,
        "placement": "auto",
    }  # a measured one is in the record
    made = [point | free for point in resolved_points(text)]
    for folder in (
        sorted((page.parent / "records").iterdir()) if (page.parent / "records").is_dir() else []
    ):
        for file in (
            [folder / "config.json"]
            if (folder / "config.json").exists()
            else sorted(folder.glob("*/config.json"))
        ):
            kept = record.as_json(Config()) | json.loads(file.read_text())["config"] | free
            assert any(
                all(kept[name] == value for name, value in point.items()) for point in made
            ), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_mean_in_the_text_is_in_a_table(page):
    text = page.read_text()
    tables = "".join(
        match.group(0) for match in re.finditer(r"<!-- table .*?<!-- end -->", text, re.DOTALL)
    )
    for mean in re.findall(
        r"\d+\.\d+ ± \d+\.\d+", re.sub(r"<!-- table .*?<!-- end -->", "", text, flags=re.DOTALL)
    ):
        assert mean in tables, f"{mean} is in no table of {page.name}"


def runs_that_reach_90_percent(method, num_subnets, *spent):
    config, row = {"method": method, "num_subnets": num_subnets}, {"test_accuracy": 0.9}
    return [
        tables.Run(config | {"seed": seed}, [row | {"bytes_per_device": 1e6 * mb}], {})
        for seed, mb in enumerate(spent)
    ]


def test_methods_with_values_of_their_own_are_compared_by_workers():
    of = lambda method, s, mb, steps: [
        tables.Run(run.config | {"local_steps": steps}, run.rows, run.summary)
        for run in runs_that_reach_90_percent(method, s, mb)
    ]
    groups = tables.grouped(
        [
            *of("ist", 2, 2, 60),
            *of("ist", 4, 1, 60),
            *of("local_sgd", 2, 6, 80),
            *of("local_sgd", 4, 5, 160),
        ]
    )
    times = {label: tables._times_ist(group, "MB", 85, groups) for label, group in groups.items()}
    assert sorted(times.values()) == ["", "", "3.0", "5.0"] and any(
        "local_steps=160" in label for label in times
    )
    both = tables.grouped(
        [
            *of("ist", 2, 2, 60),
            *of("ist", 2, 4, 20),
            *of("local_sgd", 2, 6, 80),
            *of("local_sgd", 2, 5, 160),
        ]
    )
    assert not any(tables._times_ist(group, "MB", 85, both) for group in both.values()), (
        "which of the two is not said"
    )


def test_a_column_says_how_many_times_ists_a_baseline_spent():
    of = runs_that_reach_90_percent
    groups = tables.grouped(
        [*of("ist", 2, 1, 3), *of("local_sgd", 2, 8, 10), *of("ist", 4, 1), *of("local_sgd", 4, 5)]
    )
    times = {label: tables._times_ist(group, "MB", 85, groups) for label, group in groups.items()}
    assert {label: cell for label, cell in times.items() if cell} == {
        "local_sgd, num_subnets=2": "4.5",
        "local_sgd, num_subnets=4": "5.0",
    }
    assert {tables._times_ist(group, "MB", 95, groups) for group in groups.values()} == {""}


def test_runs_without_a_link_have_no_simulated_seconds_to_show(tmp_path):
    runs = [tables.Run({}, [{"test_accuracy": 0.9}], {})]
    with pytest.raises(ConfigError, match="needs simulated_seconds in every run, and one has none"):
        tables._reached(runs, "simulated s", 80)


def test_lost_workers_are_a_share_of_all_in_all_rounds():
    runs = [
        tables.Run({"num_subnets": 4}, [], {"rounds": 5, "lost_workers": lost}) for lost in (1, 3)
    ]
    assert tables._lost(runs) == "10.0"


def test_a_page_shows_a_benchmark_and_the_machine_it_ran_on(tmp_path):
    row = {"what": "a round", "seconds": 0.002, "ratio": 1.5, "to": "steps by hand"}
    machine = {"platform": "Linux", "cores": 2, "devices": ["cpu"], "jax": "0.10.2"}
    (tmp_path / "benchmark.json").write_text(json.dumps({"machine": machine, "rows": [row]}))
    page = tmp_path / "page.md"
    page.write_text("<!-- benchmark benchmark.json -->\n<!-- end -->\n")
    pages.rebuild(page)
    assert (
        "| a round | 2.00 | 1.500 | steps by hand |" in page.read_text()
        and "2 cores, 1 x cpu" in page.read_text()
    )
    page.write_text("<!-- benchmark benchmark.json -->\n")
    with pytest.raises(ConfigError, match="has an .* of its own"):
        pages.rebuild(page)


def test_a_column_says_what_was_spent_when_an_accuracy_was_first_reached():
    rows = lambda *pairs: [
        {"test_accuracy": accuracy, "bytes_per_device": sent} for accuracy, sent in pairs
    ]
    runs = [
        tables.Run({}, rows((0.5, 1e6), (0.9, 2e6), (0.8, 3e6)), {}),
        tables.Run({}, rows((0.85, 4e6)), {}),
    ]
    assert tables._reached(runs, "MB", 85) == "3.00 ± 1.41"
    assert tables._reached(runs, "MB", 90) == "1 of 2 reach it"


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def rounded(text):
    """(value, decimals) of every number in a text without what is in brackets."""
    found = [number.replace(",", "") for number in NUMBER.findall(re.sub(r"\(.*?\)", "", text))]
    return [(float(number), len(number.partition(".")[2])) for number in found]


def of_ours(text):
    """The cells of a page's hand-written tables that stand in columns of ours."""
    for block in re.findall(r"(?:^\|.*\n)+", MADE.sub("", text), re.MULTILINE):
        header, _, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in block.splitlines()
        ]
        for row in rows:
            yield from (cell for name, cell in zip(header, row) if re.search(r"\bours\b", name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_table_says_is_ours_is_in_a_table_that_is_made_from_records(page):
    """Rounded as it is written, on that page or one that it links to."""
    text = page.read_text()
    linked = [
        (page.parent / path).resolve() for path in re.findall(r"\]\(([\w/.]+README\.md)", text)
    ]
    made = "".join(
        match.group(0) for each in [page, *linked] for match in MADE.finditer(each.read_text())
    )
    measured = {value for value, _ in rounded(made.replace("(", "").replace(")", ""))}
    for cell in of_ours(text):
        for value, decimals in rounded(cell):
            assert any(round(other, decimals) == value for other in measured), (
                f"{value} of {cell!r} is in no table"
            )
