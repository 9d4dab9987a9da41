# Two commands do everything: `make run` shows the main job on real data, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check test-upstream install clean

run: $(VENV)/installed
	@$(BIN)/python -c "import time; print(time.time())" > $(VENV)/started
	$(BIN)/dire-plug run sre2l --dire
	$(BIN)/dire-plug compare sre2l
	@$(BIN)/python -c "import time; print(f'make run took {time.time() - float(open(\"$(VENV)/started\").read()):.0f} s after the install')"
	@echo "next: . $(BIN)/activate, so that the shell finds dire-plug; then: dire-plug vendor sre2l, and dire-plug list recipes"
	@echo "      (or, in this shell as it is: $(BIN)/dire-plug vendor sre2l)"

test: $(VENV)/installed check
	$(BIN)/python -m pytest -m "not every_script"

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layering.py

test-upstream: $(VENV)/installed
	$(BIN)/python -m pytest -m upstream -rs

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'dire-plug needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test,upstreams]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
