# make run    fit configs/poisson.yaml from nothing and say where the report is
# make test   the test suite          make lint   ruff and mypy
# make bench  torchglm beside its peers (minutes)          make bench-full   the same at full size
# make wheel  sdist and wheel, the wheel installed into an empty environment and used there
# make docs   the site, from docs/ into site/
# make gpu    the CUDA tests and what a CUDA device makes of torchglm, in six minutes; OUT=FOLDER keeps the table.
#             PYTHON=python3 takes that interpreter with the packages it has, and no network

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

# One pinned torch for every install, whichever extra asks for it.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.DEFAULT_GOAL := help
.PHONY: help run test lint wheel docs bench bench-full gpu clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -7

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Each stamp says which set of packages is installed; a change of pyproject.toml or constraints.txt renews it.
$(VENV)/.stamp-run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.stamp-run

$(VENV)/.stamp-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[bench]'
	@touch $@ $(VENV)/.stamp-run

$(VENV)/.stamp-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.stamp-run

run: $(VENV)/.stamp-run
	$(BIN)/torchglm fit configs/poisson.yaml

test: $(VENV)/.stamp-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/mypy

wheel: $(VENV)/.stamp-dev
	$(BIN)/python -m tests.installed

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build # not --quiet: it counts no warnings, so that strict has none to stop at

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks

bench-full: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks --full

# An interpreter that was named brings its own packages; else it is that of .venv.
ifeq ($(origin PYTHON),file)
gpu: $(VENV)/.stamp-dev
GPU_PYTHON := $(BIN)/python
else
GPU_PYTHON := $(PYTHON)
endif

gpu:
	@found=$$($(GPU_PYTHON) -c 'import torch; print(torch.cuda.is_available())') || exit 1; \
	if [ "$$found" != True ]; then echo 'No CUDA device is here: there is nothing to run.'; exit 0; fi; \
	$(GPU_PYTHON) -m pytest -m cuda -q --maxfail=20 --durations=10 -p no:cacheprovider tests; tests=$$?; \
	$(GPU_PYTHON) -m benchmarks.gpu $(if $(OUT),--out $(OUT)) && exit $$tests

clean:
	rm -rf $(VENV) runs site build dist .pytest_cache .mypy_cache .ruff_cache
