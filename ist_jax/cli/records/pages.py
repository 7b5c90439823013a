"""Pages whose tables and pictures are made from kept run records.

A page says what belongs where, in comments that a reader does not see; paths are relative to the page:

    <!-- table records/fashion_mnist -->                     the whole table of `ist_jax.cli.commands.report`
    <!-- table records/fashion_mnist | seeds | training -->  some of its columns, by the beginnings of their names
    <!-- table records/slow | MB to 85 % -->                 what was spent until an accuracy was reached (`tables.REACHED`),
                                                             and `times ist's MB to 85 %`
    <!-- table records/wide | MB per sync -->                one of the columns that have to be named (`tables.IF_NAMED`)
    <!-- benchmark records/rounds.json -->                the rows of a benchmark, and the machine it ran on
    <!-- rows records/memory.json -->                        the rows and the note that a command wrote as JSON
    <!-- end -->

If the folder of the records holds a paper.json, {label of a row: percent}, its values stand in a column 'paper (%)'.

    <!-- picture records/fashion_mnist fashion_mnist.png -->
    <!-- picture records/busy busy.png without seconds -->     of runs that were not timed alike
"""

import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence

from PIL import Image

from ist_jax.cli.benchmarks import rounds
from ist_jax.cli.config import ConfigError
from ist_jax.cli.records import tables
from ist_jax.cli.records.record import RESUMES
from ist_jax.training.files import write_whole

KEPT = ("config.json", "metrics.jsonl", "summary.json")
_BENCHMARK = re.compile(r"(<!-- benchmark (?P<record>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_ROWS = re.compile(r"(<!-- rows (?P<record>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_TABLE = re.compile(
    r"(<!-- table (?P<records>[^\s|]+)(?P<columns>[^>]*?) -->\n).*?(<!-- end -->)", re.DOTALL
)
_KINDS = (_TABLE, _BENCHMARK, _ROWS)
_TARGET = re.compile(rf"(?:times ist's )?({'|'.join(tables.REACHED)}) to ([\d.]+) %")
_PICTURE = re.compile(r"<!-- picture (?P<records>\S+) (?P<picture>\S+)(?P<without>[^>]*?) -->")


def keep(folders: Sequence[pathlib.Path], out: pathlib.Path) -> list[pathlib.Path]:
    """Copies the records of finished runs, without checkpoints and without the places where data and runs lay.

    Raises:
      ConfigError: two runs have one name in `out`.
    """
    kept: dict[pathlib.Path, pathlib.Path] = {}
    for folder in folders:
        for workdir in tables.find([folder]):
            tables.read(workdir)  # whole
            target = out / (workdir.relative_to(folder) if workdir != folder else workdir.name)
            if kept.setdefault(target, workdir) != workdir:
                raise ConfigError(
                    f"{workdir} and {kept[target]} are both kept as {target}: keep them in folders of their own"
                )
            _copy(workdir, target)
    return list(kept)


def _copy(workdir: pathlib.Path, target: pathlib.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(workdir / name, target / name)
    if (workdir / RESUMES).exists():
        shutil.copyfile(workdir / RESUMES, target / RESUMES)
    content = json.loads((target / "config.json").read_text())
    for name in ("data.dir", "init_from"):
        content["config"][name] = pathlib.PurePath(content["config"].get(name, "")).name
    write_whole(target / "config.json", json.dumps(content, indent=2) + "\n")


def fingerprint(records: pathlib.Path) -> str:
    """SHA-256 of what a picture is drawn from."""
    digest = hashlib.sha256()
    for workdir in tables.find([records]):
        for name in KEPT:
            digest.update(
                f"{workdir.relative_to(records)}/{name}".encode() + (workdir / name).read_bytes()
            )
    return digest.hexdigest()


def _with_paper(
    records: pathlib.Path, header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """The table with what a paper reports beside it, a row it does not know with nothing."""
    if not (records / "paper.json").is_file():
        return header, rows
    try:
        percent = {
            label: f"{float(value):.2f}"
            for label, value in json.loads((records / "paper.json").read_text()).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{records}/paper.json is an object of numbers by the labels of rows ({error})"
        ) from error
    labels = [row[0] for row in rows]
    if unknown := sorted(set(percent) - set(labels)):
        raise ConfigError(
            f"{records}/paper.json names {unknown[0]!r}, which is no row; rows: {', '.join(labels)}"
        )
    return [*header, "paper (%)"], [[*row, percent.get(row[0], "")] for row in rows]


def _chosen(records: pathlib.Path, columns: str) -> str:
    if not tables.find([records]):
        raise ConfigError(f"{records} holds no run records")
    names = [name.strip() for name in columns.split("|") if name.strip()]
    targets = list(
        dict.fromkeys(
            (match[1], float(match[2])) for match in map(_TARGET.fullmatch, names) if match
        )
    )
    named = [title for title in tables.IF_NAMED if any(title.startswith(name) for name in names)]
    runs = [tables.read(workdir) for workdir in tables.find([records])]
    header, rows = tables.table(runs, targets, named)
    header, rows = _with_paper(records, header, rows)
    wanted = names or header[1:]
    positions = [0]
    for name in wanted:
        found = [i for i, title in enumerate(header) if title.startswith(name)]
        if len(found) != 1:
            raise ConfigError(
                f"column {name!r} fits {len(found)} of {', '.join(header)}: begin the name of one"
            )
        positions += found
    return tables.markdown(
        [header[i] for i in positions], [[row[i] for i in positions] for row in rows]
    )


def rebuilt(page: pathlib.Path) -> str:
    """The text of `page` with every table made anew. Raises ConfigError if a table has no end."""
    text = page.read_text()
    begun, whole = (
        len(re.findall("<!-- (table|benchmark|rows) ", text)),
        sum(len(kind.findall(text)) for kind in _KINDS),
    )
    if begun != whole or begun != text.count("<!-- end -->"):
        raise ConfigError(
            f"{page}: every '<!-- table ... -->' and '<!-- benchmark ... -->' has an '<!-- end -->' of its own"
        )

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}{_chosen(page.parent / match['records'], match['columns'])}{match[4]}"

    def timed(match: re.Match[str]) -> str:
        content = json.loads((page.parent / match["record"]).read_text())
        return f"{match[1]}{rounds.markdown(content['rows'])}\n{rounds.described(content['machine'])}\n{match[3]}"

    def written(match: re.Match[str]) -> str:
        content = json.loads((page.parent / match["record"]).read_text())
        return f"{match[1]}{tables.markdown(content['header'], content['rows'])}\n{content['note'].strip()}\n{match[3]}"

    return _ROWS.sub(written, _BENCHMARK.sub(timed, _TABLE.sub(table, text)))


def pictures(page: pathlib.Path) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
    """(records, picture) of every picture of `page`."""
    for match in _PICTURE.finditer(page.read_text()):
        yield page.parent / match["records"], page.parent / match["picture"]


def drawn_from(picture: pathlib.Path) -> str:
    """The fingerprint of the records that a picture was drawn from."""
    with Image.open(picture) as image:
        return image.info.get("Description", "")


def rebuild(page: pathlib.Path) -> None:
    """Writes the page's tables and pictures from its records.

    Raises:
      ConfigError: no page, no records, or a column that is none.
    """
    if not page.is_file():
        raise ConfigError(f"--page={page}: there is no such file")
    write_whole(page, rebuilt(page))
    for match in _PICTURE.finditer(page.read_text()):
        records, picture = page.parent / match["records"], page.parent / match["picture"]
        with_seconds = "without seconds" not in match["without"]
        tables.curves(
            tables.find([records]), picture, fingerprint(records), with_seconds=with_seconds
        )
