"""The notebooks run from beginning to end, in quick mode, as they are."""

import os
import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.filterwarnings("ignore")  # of the kernel's own libraries
@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """Cells with the tag 'tfds' need prepared data: IST_DATA_DIR."""
    monkeypatch.setenv("IST_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(path, as_version=4)
    if "IST_DATA_DIR" in os.environ:
        monkeypatch.setenv("IST_TFDS_DIR", str(pathlib.Path(os.environ["IST_DATA_DIR"], "tfds").resolve()))
    else:
        notebook.cells = [cell for cell in notebook.cells if "tfds" not in cell.metadata.get("tags", [])]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    pictures = [output for cell in code for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == sum("Image(" in cell.source for cell in code)
    assert {"whole", "subnet_0"} == {folder.name for folder in (tmp_path / "exported").iterdir()}


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs_and_holds_no_logic(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None
            assert "def " not in cell.source and "class " not in cell.source and "for " not in cell.source
