"""The notebooks run from beginning to end, in quick mode, as they are."""

import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
NO_PACKAGE = "ist_jax_is_not_here"

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
ignores_warnings = pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(notebook, folder):
    """Runs the cells in `folder`, up to the first that raises. Outputs go into the cells."""
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()


def written_files(folder):
    """(path, time of the last change) of every file in and below `folder`."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {(file.relative_to(folder), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def quick(monkeypatch):
    """Notebooks train for a moment, with the package of this checkout."""
    monkeypatch.setenv("IST_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory):
    """The folder in which all notebooks run, one after the other."""
    return tmp_path_factory.mktemp("colab")


@pytest.mark.slow
@ignores_warnings
@every_notebook
def test_notebooks_run_one_after_the_other_in_one_folder(path, one_folder, quick, monkeypatch):
    """Each twice in one runtime, as "Run all" again does. It writes in its own folder only.

    Cells with the tag 'tfds' need prepared data, in IST_DATA_DIR.
    """
    notebook = nbformat.read(path, as_version=4)
    if "IST_DATA_DIR" in os.environ:
        monkeypatch.setenv(
            "IST_TFDS_DIR", str(pathlib.Path(os.environ["IST_DATA_DIR"], "tfds").resolve())
        )
    else:
        notebook.cells = [
            cell for cell in notebook.cells if "tfds" not in cell.metadata.get("tags", [])
        ]
    notebook.cells += [nbformat.v4.new_code_cell(cell.source) for cell in code_cells(notebook)]
    before, runs = written_files(one_folder), pathlib.Path("runs", path.stem)
    execute(notebook, one_folder)
    changed = {file for file, _ in before ^ written_files(one_folder)}
    assert all(file.is_relative_to(runs) for file in changed), changed
    code = code_cells(notebook)
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == sum("Image(" in cell.source for cell in code)
    folders = (one_folder / runs).glob("exported_*")
    exported = [{folder.name for folder in made.iterdir()} for made in folders]
    assert exported == [{"whole", "subnet_0"}] * 2


@pytest.mark.slow
@ignores_warnings
@every_notebook
def test_a_notebook_ends_at_a_run_that_fails(path, tmp_path, quick):
    """Its workdir holds another run, whose picture and export it must not show."""
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    train = next(place for place, cell in enumerate(cells) if "run.train(" in cell.source)
    first = re.search(r'run\.train\(.* RUNS / "(.+)"\)', cells[train].source)[1]
    workdir = tmp_path / "runs" / path.stem / first
    workdir.mkdir(parents=True)
    (workdir.parent / "curves.png").write_bytes(b"the other run's picture")
    record = {"config": {"method": "single"}, "environment": {"data": {"fingerprint": ""}}}
    (workdir / "config.json").write_text(json.dumps(record))
    with pytest.raises(CellExecutionError) as raised:
        execute(notebook, tmp_path)
    assert raised.value.ename == "ConfigError"
    assert "holds a run of another configuration" in raised.value.evalue
    assert cells[train].execution_count is not None
    assert all(cell.execution_count is None for cell in cells[train + 1 :])


@ignores_warnings
def test_a_notebook_ends_at_an_install_that_fails(tmp_path):
    """`%pip` itself raises nothing. The folder of the package's name is not the package."""
    (source,) = {nbformat.read(path, as_version=4).cells[1].source for path in NOTEBOOKS}
    source = source.replace('find_spec("ist_jax")', f'find_spec("{NO_PACKAGE}")')
    source = source.replace('REPOSITORY = ""', f'REPOSITORY = "{(tmp_path / "absent").as_uri()}"')
    (tmp_path / NO_PACKAGE).mkdir()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    with pytest.raises(CellExecutionError) as raised:
        execute(notebook, tmp_path)
    assert raised.value.ename == "AssertionError"
    assert raised.value.evalue.startswith("pip did not install ist_jax")
    shown = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "absent" in shown, "pip's message is shown"


@pytest.mark.slow
def test_what_a_notebook_installs_is_complete(tmp_path):
    """The first cell's `pip install git+ADDRESS`, without dependencies, into an empty folder."""
    if (
        not (ROOT / ".git").exists()
        or int(importlib.metadata.version("setuptools").split(".")[0]) < 77
    ):
        pytest.skip("this is no git repository, or setuptools is too old to build here")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        f"--target={tmp_path}",
    ]
    subprocess.run([*install, f"git+{ROOT.as_uri()}"], check=True, capture_output=True)
    program = (
        "import ist_jax; from ist_jax.training import environment; "
        "print(ist_jax.__file__, environment.__file__, environment.git_revision())"
    )
    isolated = [
        sys.executable,
        "-P",
        "-c",
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {program}",
    ]
    *shown, revision = subprocess.run(
        isolated, check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.split()
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    assert revision == head, "a record names the commit that was installed"
    assert all(pathlib.Path(file).is_relative_to(tmp_path) for file in shown), shown


@every_notebook
def test_a_notebook_without_an_address_says_what_is_missing(path):
    source = nbformat.read(path, as_version=4).cells[1].source
    assert 'REPOSITORY = ""' in source
    with pytest.raises(AssertionError, match="REPOSITORY is the address of the repository"):
        exec(source.replace("%pip", "pip = ''#").replace("find_spec(", "find_spec('no_' + "), {})


@every_notebook
def test_every_notebook_has_its_own_folder_of_runs(path):
    sources = [cell.source for cell in code_cells(nbformat.read(path, as_version=4))]
    code = "\n".join(sources)
    assert re.findall(r"^RUNS = .*$", code, re.M) == [f'RUNS = pathlib.Path("runs/{path.stem}")']
    pictures = re.findall(r'([^(),]*)"[^"]*\.png"', code)
    assert pictures and all(start.strip() == "RUNS /" for start in pictures), pictures
    workdirs = re.findall(r"run\.train\(.*, (\w+) / .*\)$", code, re.M)
    assert len(workdirs) == code.count("run.train(") and set(workdirs) == {"RUNS"}


@every_notebook
def test_a_notebook_runs_nothing_that_fails_without_raising(path):
    """`!`, magics and main(argv) return a status, and the next cell runs whatever it is."""
    cells = code_cells(nbformat.read(path, as_version=4))
    code = "\n".join(cell.source for cell in cells)
    silent = r"(?:^|=)\s*[!%]+\w+|\w+\.main\(|system\(|subprocess|get_ipython|Popen|except"
    assert [found.strip() for found in re.findall(silent, code, re.M)] == ["%pip"]
    assert re.search(r"^    %pip .*\n    assert ", cells[0].source, re.M), "its result is checked"


@every_notebook
def test_a_notebook_is_stored_without_outputs_and_holds_no_logic(path):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert not cell.outputs and cell.execution_count is None
        assert not re.search("def |class |for ", cell.source)
