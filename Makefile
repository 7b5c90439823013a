# make demo: train on the embedded digits; print the table and the path of the picture
# make test: lint, then every test that is not marked slow
# make test-all: lint, then every test
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# one process runs all tests of a file, which share compiled programs; long files first (conftest.py)
PYTEST := $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-all lint clean
demo: $(VENV)/.installed
	$(BIN)/ist-jax sweep --config experiments/demo/digits.py --workdir runs/demo \
		--grid method=ist,data_parallel,local_sgd,single --grid seed=0,1,2

test: $(VENV)/.tested lint
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.tested lint
	$(PYTEST)

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	touch $@

$(VENV)/.tested: pyproject.toml $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[test]
	touch $@

clean:
	rm -rf $(VENV) .jax_cache build *.egg-info
