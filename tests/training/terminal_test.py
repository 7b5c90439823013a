"""Where progress is a bar, and where it is a line per evaluation."""

import importlib.util
import io
import sys
import types

import pytest
import tqdm.notebook

from ist_jax.training.loggers import _bar_class


@pytest.mark.parametrize("has_widgets", [True, False])
def test_a_notebook_with_widgets_shows_a_bar(has_widgets, monkeypatch):
    shell = types.SimpleNamespace(kernel="a kernel")
    notebook = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_widgets or None)
    assert _bar_class(sys.stderr) is (tqdm.notebook.tqdm if has_widgets else None)
    assert _bar_class(io.StringIO()) is None, "a file"
    notebook.get_ipython = lambda: None  # imported by a program
    assert _bar_class(sys.stderr) is None
