# Everything here works from a clean clone; each target installs first what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench soak clean

help:
	@echo "make install   a virtual environment in $(VENV) with everything"
	@echo "make demo      the main job on real data, in under a minute (KEEP=1 leaves it running)"
	@echo "make test      what CI runs: lint, then every test"
	@echo "make lint      ruff, mypy, import-linter"
	@echo "make bench     speed and memory beside their targets"
	@echo "make soak      faults and kills for ten minutes (SOAK_SECONDS), counted"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $$($(PYTHON) --version) is too old: Python 3.11 or later is needed (make PYTHON=python3.12 ...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null \
	  || { echo "error: $(PYTHON) has no ensurepip: install the package python3-venv of your system, then run make again" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[server,demo,dev]'
	@touch $@

demo: install
	@KEEP=$(KEEP) $(BIN)/tesla-at-home-server demo

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not soak" --cov --cov-report=term:skip-covered
	$(BIN)/python -m tests.coverage_floor

bench: install
	$(BIN)/python -m bench

soak: install
	$(BIN)/python -m tests.soak
	$(BIN)/pytest -m soak -p no:randomly --timeout 3600

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* dist build
