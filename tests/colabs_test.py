"""The notebooks run from beginning to end, in quick mode, as they are."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Twice in one runtime, as "Run all" again does.

    Cells with the tag 'tfds' need prepared data, in IST_DATA_DIR.
    """
    monkeypatch.setenv("IST_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    if "IST_DATA_DIR" in os.environ:
        monkeypatch.setenv(
            "IST_TFDS_DIR", str(pathlib.Path(os.environ["IST_DATA_DIR"], "tfds").resolve())
        )
    else:
        notebook.cells = [
            cell for cell in notebook.cells if "tfds" not in cell.metadata.get("tags", [])
        ]
    notebook.cells += [
        nbformat.v4.new_code_cell(cell.source)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [
        output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == sum("Image(" in cell.source for cell in code)
    exported = [{folder.name for folder in made.iterdir()} for made in tmp_path.glob("exported_*")]
    assert exported == [{"whole", "subnet_0"}] * 2


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
        "import ist_jax; from ist_jax.cli.records import record; "
        "print(ist_jax.__file__, record.__file__, record.git_revision())"
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_without_an_address_says_what_is_missing(path):
    source = nbformat.read(path, as_version=4).cells[1].source
    assert 'REPOSITORY = ""' in source
    with pytest.raises(AssertionError, match="REPOSITORY is the address of the repository"):
        exec(source.replace("%pip", "pip = ''#").replace("find_spec(", "find_spec('no_' + "), {})


def test_no_two_notebooks_share_a_workdir():
    setups = [nbformat.read(path, as_version=4).cells[2].source for path in NOTEBOOKS]
    folders = [re.findall(r'^RUNS = pathlib.Path\("(.+)"\)$', source, re.M) for source in setups]
    assert all(len(folder) == 1 for folder in folders)
    assert len({folder for (folder,) in folders}) == len(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs_and_holds_no_logic(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert (
                "def " not in cell.source
                and "class " not in cell.source
                and "for " not in cell.source
            )
