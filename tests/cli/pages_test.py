"""Pages are what the kept results say."""

import json
import pathlib
import re

import pytest
from finished_runs import finished, write_workdir

from ist_jax.cli.commands import report
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import curves, pages, results
from ist_jax.cli.records.results import Kept

ROOT = pathlib.Path(__file__).parent.parent.parent
MADE = re.compile(r"<!-- (table|benchmark|rows) .*?<!-- end -->", re.DOTALL)  # from results
PAGES = [ROOT / "README.md", *sorted((ROOT / "experiments").rglob("README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_table_and_picture_is_made_from_its_results(page):
    assert pages.rebuilt(page) == page.read_text(), "ist-jax report --page makes it anew"
    for picture in pages.pictures(page):
        runs = results.read(picture.source).runs
        assert pages.drawn_from(picture.file) == curves.fingerprint(runs)
        assert picture.file.with_suffix(".svg").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_table_of_results_is_written_by_hand(page):
    """Columns of numbers are right-aligned; a table that is not made from results has none."""
    text = page.read_text()
    assert "<!-- table " in text and ("<!-- picture " in text or page.parent.name == "tuning")
    outside = MADE.sub("", text)
    assert "---:" not in outside
    assert not [line for line in outside.splitlines() if line.startswith("|") and "±" in line]


@pytest.fixture
def page(tmp_path):
    """A page beside results/two.jsonl, which holds two runs of IST."""
    runs = [finished({"seed": seed}) for seed in (0, 1)]
    results.write(tmp_path / "results" / "two.jsonl", Kept("ist-jax sweep", runs))
    return tmp_path / "page.md"


def test_a_page_is_made_from_runs_that_were_kept(tmp_path):
    for seed in (0, 1):
        write_workdir(tmp_path / "runs" / f"seed={seed}", finished({"seed": seed}))
    table = tmp_path / "results" / "two.jsonl"
    keep = ["report", str(tmp_path / "runs"), "--keep", str(table), "--command", "ist-jax sweep"]
    assert report.main(keep) == 0
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table results/two | seeds | MB sent -->\n<!-- end -->\n"
        "<!-- picture results/two figures/two.png -->\nafter\n"
    )
    assert report.main(["report", "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| method | seeds | MB sent per device |\n| --- | ---: | ---: |\n| ist | 2 | " in text
    assert pages.rebuilt(page) == text
    runs = results.read(table).runs
    assert pages.drawn_from(tmp_path / "figures" / "two.png") == curves.fingerprint(runs)


def test_a_picture_of_other_runs_is_told_apart(page):
    page.write_text("<!-- picture results/two two.png without seconds -->\n")
    pages.rebuild(page)
    (picture,) = pages.pictures(page)
    assert not picture.with_seconds
    first, *others = results.read(picture.source).runs
    changed = first._replace(curve=first.curve | {"test/accuracy": [0.5, 0.95]})
    assert pages.drawn_from(picture.file) != curves.fingerprint([changed, *others])


def test_a_column_that_has_to_be_named_is_shown_where_it_is_named(page):
    page.write_text("<!-- table results/two | memory of a device at most -->\n<!-- end -->\n")
    assert "| ist | 3.0 |" in pages.rebuilt(page)


def test_values_of_a_paper_are_a_column(page):
    table = page.parent / "results" / "two.jsonl"
    results.write(table, results.read(table)._replace(paper={"ist": 81.5}))
    page.write_text("<!-- table results/two | seeds | paper -->\n<!-- end -->\n")
    made = "| method | seeds | paper (%) |\n| --- | ---: | ---: |\n| ist | 2 | 81.50 |"
    assert made in pages.rebuilt(page)
    results.write(table, results.read(table)._replace(paper={"gist": 1.0}))
    with pytest.raises(ConfigError, match="the paper's values are for rows ist.*, not 'gist'"):
        pages.rebuilt(page)


def test_what_a_page_cannot_be_made_from_is_one_line(page):
    for text, says in (
        (
            "<!-- table results/two | colour -->\n<!-- end -->\n",
            "'colour' begins the title of one column, not of 0 of",
        ),
        ("<!-- table results/two -->\n", "needs one '<!-- end -->' after it"),
        ("<!-- table nowhere -->\n<!-- end -->\n", "there is no such table"),
    ):
        page.write_text(text)
        with pytest.raises(ConfigError, match=says):
            pages.rebuild(page)
    with pytest.raises(ConfigError, match="there is no such file"):
        pages.rebuild(page.with_name("none.md"))


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
    with pytest.raises(ConfigError, match="needs one"):
        pages.rebuild(page)


NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def rounded(text):
    """(value, decimals) of every number in a text without what is in brackets."""
    outside = re.sub(r"\(.*?\)", "", text)
    numbers = [number.replace(",", "") for number in NUMBER.findall(outside)]
    return [(float(number), len(number.partition(".")[2])) for number in numbers]


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
def test_what_a_table_says_is_ours_is_in_a_table_that_is_made_from_results(page):
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
