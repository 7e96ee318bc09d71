# Every target does its own set-up: an environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
BEAM_VENV ?= .venv-beam
WORKDIR ?= quickstart

.PHONY: help quickstart test test-all test-beam lint format constraints clean

help:
	@echo "make quickstart   the whole study on generated data; report in $(WORKDIR)/report/index.html"
	@echo "make test         lint, types and the tests (20 minutes on 2 busy cores)"
	@echo "make test-all     the same with the slow tests"
	@echo "make test-beam    the tests of Apache Beam in an environment of its own, $(BEAM_VENV)"
	@echo "make format       format the code"
	@echo "make constraints  renew constraints.txt and constraints-beam.txt from the newest versions that install"

quickstart: $(VENV)/.installed
	$(BIN)/python -m radnet_jax.main --config=configs/quickstart.py --workdir=$(WORKDIR)

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

test-beam: $(BEAM_VENV)/.installed
	$(BEAM_VENV)/bin/python -m pytest -n 0 tests/data_prep/test_beam.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

$(VENV)/.installed: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/uv pyproject.toml constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

$(BEAM_VENV)/.installed: $(BIN)/uv pyproject.toml constraints-beam.txt
	test -d $(BEAM_VENV) || $(BIN)/uv venv --quiet --python $(PYTHON) $(BEAM_VENV)
	$(BIN)/uv pip install --quiet --python $(BEAM_VENV)/bin/python --constraint constraints-beam.txt \
		--editable '.[beam,dev]'
	@touch $@

constraints: $(BIN)/uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --upgrade --editable '.[dev]'
	$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable > constraints.txt
	rm -rf $(BEAM_VENV) && $(BIN)/uv venv --quiet --python $(PYTHON) $(BEAM_VENV)
	$(BIN)/uv pip install --quiet --python $(BEAM_VENV)/bin/python --editable '.[beam,dev]'
	$(BIN)/uv pip freeze --python $(BEAM_VENV)/bin/python --exclude-editable > constraints-beam.txt

clean:
	rm -rf $(VENV) $(BEAM_VENV) .cache .pytest_cache .mypy_cache .ruff_cache
