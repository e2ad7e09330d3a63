# make demo: set up and run the demo.   make test: set up and run every check.
# make docs: build the site into site/.   make dist: build the packages into dist/ and check them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# CPU threads of the tests: one is quickest, and every number must pass.
THREADS ?= 1
# Processes of the tests; each takes whole files, the slow ones first. `make unit PROCESSES=0` uses one. They are started
# by the interpreter's path within this folder: the whole path may hold letters that PYTHONIOENCODING does not know, and
# `pytest -n` sends it through standard input.
PROCESSES ?= 2
SHARED := --tx '$(PROCESSES)*popen//python=$(BIN)/python' --dist loadfile --no-loadscope-reorder
STAMP := $(VENV)/.installed

.PHONY: demo test lint types unit docs dist clean

demo: $(STAMP)
	$(BIN)/aced demo

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	OMP_NUM_THREADS=$(THREADS) $(BIN)/pytest $(if $(filter-out 0,$(PROCESSES)),$(SHARED))

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Built with the setuptools of .venv, whose version is pinned.
dist: $(VENV)/.dist
	rm -rf build dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

$(VENV)/.docs $(VENV)/.dist: $(VENV)/.%: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$*]'
	touch $@

# torch first and alone: a later requirement must not bring another build of it in.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("aced needs Python 3.11 or newer; name one with PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs build dist site src/*.egg-info
