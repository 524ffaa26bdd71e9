# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files of tests run side by side, and those with Ray in one process; see tests/conftest.py.
PARALLEL := --numprocesses 3 --dist loadgroup --no-loadscope-reorder
STAMP := $(VENV)/.installed

.PHONY: setup demo demo-gigapixel test test-fast lint format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geosod needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/geosod demo -o demo $(DEMO)
	@echo
	@echo 'To have the command geosod on your PATH: source $(BIN)/activate'

demo-gigapixel: setup
	$(BIN)/geosod demo -o demo --size 32768 $(DEMO)

test: setup
	$(BIN)/python -m pytest -q $(PARALLEL) $(TEST)

test-fast: setup
	$(BIN)/python -m pytest -q -m 'not slow' $(PARALLEL) $(TEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf $(VENV) .bench .peers demo out .pytest_cache .mypy_cache .ruff_cache .hypothesis
