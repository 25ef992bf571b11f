# Every target makes the environment it needs, in .venv. `make` alone prints this list.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto  # processes that share the fast tests: a number, or the cores of the machine
TORCH_INDEX ?=  # e.g. https://download.pytorch.org/whl/cpu: an extra place to look for torch

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
CONSTRAINTS := -c constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help setup setup-scatter demo demo-rl check fix test tutorial test-all docs parity golden bench wheel

help:  ## print the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' \
	  | awk -F '\t' '{ printf "make %-14s %s\n", $$1, $$2 }'

setup: $(INSTALLED_DEV)  ## make the environment: the package (editable) and the development tools

setup-scatter: $(INSTALLED)  ## build torch-scatter against the installed torch (optional, needs a C++ compiler)
	$(PIP) install $(CONSTRAINTS) setuptools wheel
	$(PIP) install $(CONSTRAINTS) --no-build-isolation torch-scatter

demo: $(INSTALLED)  ## train a small model on the demo set and sample 24 crystals
	PATH="$(abspath $(BIN)):$$PATH" scripts/demo.sh

demo-rl: $(INSTALLED)  ## tune the model of `make demo` by rewards, for five minutes
	@[ -d runs/demo_ldm ] || $(MAKE) demo
	PATH="$(abspath $(BIN)):$$PATH" scripts/demo_rl.sh

check: $(INSTALLED_DEV)  ## lint, formatting, types, direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fix: $(INSTALLED_DEV)  ## mend what ruff can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# a file stays in one process, as its tests share models; in the order of names, as in that of
# counts, which is the default, the files of few and long tests would come last
test: $(INSTALLED_DEV)  ## fast tests: CPU, no network; on all cores, up to four
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(strip $(WORKERS)) --maxprocesses 4 \
	  --dist loadfile --no-loadscope-reorder

tutorial: $(INSTALLED_DEV)  ## run docs/tutorial.ipynb from top to bottom, as CI does
	$(BIN)/python -m pytest tests/test_tutorial.py

test-all: $(INSTALLED_DEV)  ## all tests that this machine can run
	$(BIN)/python -m pytest

docs: $(INSTALLED_DOCS)  ## the documentation as a site, in docs/_build; warnings are errors
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "open docs/_build/index.html"

parity: $(INSTALLED_DEV)  ## compare with the recorded numbers of the published models
	$(BIN)/python scripts/parity.py

golden: $(INSTALLED_DEV)  ## record anew what seed 0 gives on a CPU (tests/golden); say why in the commit
	CUDA_VISIBLE_DEVICES= $(BIN)/python tests/golden.py

# conditions and csp measure a trained model, which they must be told; two_gpus needs two GPUs
bench: $(INSTALLED_DEV)  ## run the benchmarks that need no trained model; data sets in $CHEMELEON_DATA
	@set -e; for words in data_processing csp_order sample train_step plain_step rl_step rewards \
	  energy predictor evaluate_growth "evaluate mp" "evaluate carbon"; do \
	  set -- $$words; echo "== benchmarks/$$1.py $$2"; $(BIN)/python benchmarks/$$1.py $$2; \
	done

wheel: $(INSTALLED_DEV)  ## build dist/*.whl
	$(PIP) wheel --no-deps --wheel-dir dist .

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  "Python %d.%d is too old, chemeleon needs 3.11: make PYTHON=python3.11" % v[:2])'
	$(PYTHON) -m venv $(VENV)

# torch first and alone, so that an index of CPU wheels serves nothing else
$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install $(CONSTRAINTS) $(if $(strip $(TORCH_INDEX)),--index-url $(TORCH_INDEX)) torch
	$(PIP) install $(CONSTRAINTS) -e .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install $(CONSTRAINTS) -e '.[dev]'
	@touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(PIP) install $(CONSTRAINTS) -e '.[docs]'
	@touch $@
