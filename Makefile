# Two commands do everything: `make run` shows the main job on real data, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS :=
INSTALL = $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable
# tests/gpu has a process of its own: torch knows a pretended GPU in it.
# A test calls make itself, and must not inherit what this make was called with.
PYTEST = MAKEFLAGS= $(BIN)/python -m pytest

.PHONY: run test check test-unit test-slow test-upstream test-cluster fuzz test-lowest coverage docs lock install hooks clean

run: $(VENV)/installed
	@$(BIN)/python -c "import time; print(time.time())" > $(VENV)/started
	$(BIN)/dire-plug run sre2l --dire
	$(BIN)/dire-plug compare sre2l
	@$(BIN)/python -c "import time; print(f'make run took {time.time() - float(open(\"$(VENV)/started\").read()):.0f} s after the install')"
	@echo "next: . $(BIN)/activate, so that the shell finds dire-plug; then: dire-plug vendor sre2l, and dire-plug list recipes"
	@echo "      (or, in this shell as it is: $(BIN)/dire-plug vendor sre2l)"

test: $(VENV)/installed check
	$(PYTEST) -m "not every_script and not cluster" --ignore=tests/gpu
	$(PYTEST) tests/gpu

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

test-unit: $(VENV)/installed
	$(PYTEST) -m "not slow and not upstream and not cluster" --ignore=tests/gpu
	$(PYTEST) -m "not slow and not upstream" tests/gpu

test-slow: $(VENV)/installed
	$(PYTEST) -m "slow and not upstream and not cluster" --ignore=tests/gpu

test-upstream: $(VENV)/installed
	$(PYTEST) -m upstream -rs

test-cluster: $(VENV)/installed
	$(PYTEST) -m cluster -rs tests/cluster

fuzz: $(VENV)/installed
	DIRE_PLUG_FUZZ=1 $(PYTEST) tests/fuzz

test-lowest:
	$(MAKE) test-unit VENV=.venv-lowest CONSTRAINTS=ci/lowest.txt

coverage: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not upstream and not cluster" --ignore=tests/gpu --cov --cov-report=term --cov-report=markdown:coverage.md

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

lock: $(VENV)/installed-dev
	$(BIN)/uv pip compile pyproject.toml --quiet --extra dev --extra upstreams --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --no-annotate --output-file $(VENV)/lock --upgrade
	( echo "# Made by 'make lock' with uv, for Python 3.11 and later, whatever the platform; hashes are PyPI's."; \
	  cat $(VENV)/lock ) > requirements-dev.lock

hooks: $(VENV)/installed-dev
	$(BIN)/pre-commit install

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'dire-plug needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[test,upstreams]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) '.[dev,upstreams]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .coverage coverage.md site
