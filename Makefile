# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Files of tests run side by side, see tests/conftest.py; a process that crashes ends all.
PARALLEL := --numprocesses 2 --dist loadgroup --no-loadscope-reorder --max-worker-restart 0
STAMP := $(VENV)/.installed
FILES := tests
# The frameworks of adapters, over the environment above; their caches and settings stay in it, and nothing is sent.
ADAPTERS := .adapters
ADAPTERS_STAMP := $(ADAPTERS)/.installed
ADAPTERS_HOME := $(CURDIR)/$(ADAPTERS)/home
ADAPTERS_ENV := HOME=$(ADAPTERS_HOME) XDG_CACHE_HOME=$(ADAPTERS_HOME)/cache XDG_CONFIG_HOME=$(ADAPTERS_HOME)/config \
	HF_HOME=$(ADAPTERS_HOME)/hf HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 \
	YOLO_CONFIG_DIR=$(ADAPTERS_HOME)/yolo YOLO_OFFLINE=true YOLO_AUTOINSTALL=false NO_ALBUMENTATIONS_UPDATE=1

# A STAC API with pgstac, which ingestion is tested with. Its list of packages is whole, and says why others stay out.
PGSTAC := .pgstac
PGSTAC_STAMP := $(PGSTAC)/.installed

.PHONY: setup demo demo-gigapixel docs test test-fast tests-with-ray tests-without-ray test-adapters test-pgstac chaos lint format bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "geosod needs Python 3.11 or newer")'
	@echo 'installing into $(VENV), some gigabytes: this takes some minutes'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/geosod demo -o demo $(DEMO)
	@echo
	@echo 'To have the command geosod on your PATH: source $(BIN)/activate'

demo-gigapixel: setup
	$(BIN)/geosod demo -o demo --size 32768 $(DEMO)

# The documents as a site: site/html/index.html.
docs: setup
	$(BIN)/python -m docs.builder site

# Three processes share the cores: threads that spin while they wait for work would keep the others from theirs.
tests-with-ray tests-without-ray test-adapters test-pgstac chaos: export OMP_WAIT_POLICY := PASSIVE

# Tests with Ray run beside the others, in a process that does nothing else: Ray changes how a process handles signals.
test: setup
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target tests-with-ray tests-without-ray

test-fast: setup
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target FAST=' and not slow' tests-with-ray tests-without-ray

tests-with-ray:
	$(BIN)/python -m pytest -q -m 'ray$(FAST)' $(TEST) || test $$? = 5  # where none of those chosen is one

# A few files in a process, two at a time: processes that had run all tests took gigabytes, and some were killed.
tests-without-ray:
ifdef TEST
	$(BIN)/python -m pytest -q -m 'not ray$(FAST)' $(TEST) || test $$? = 5
else
	find $(FILES) -name 'test_*.py' | sort | xargs -P 2 -n 5 sh -c \
	  '$(BIN)/python -m pytest -q -p no:xdist -m "not ray$(FAST)" "$$@" || test $$? = 5' sh
endif

$(ADAPTERS_STAMP): tests/adapters/requirements.txt $(STAMP)
	$(BIN)/python -m benchmarks.peers.environments $(ADAPTERS) tests/adapters/requirements.txt
	mkdir -p $(ADAPTERS_HOME)
	$(ADAPTERS_ENV) $(ADAPTERS)/bin/python -c 'from ultralytics import settings; settings.update({"sync": False})'
	touch $@

test-adapters: $(ADAPTERS_STAMP)
	$(ADAPTERS_ENV) $(ADAPTERS)/bin/python -m pytest -q --session-timeout 900 $(PARALLEL) tests/adapters $(TEST)

$(PGSTAC_STAMP): tests/ingest/pgstac/requirements.txt $(STAMP)
	$(BIN)/python -m venv $(PGSTAC)
	$(PGSTAC)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

test-pgstac: $(PGSTAC_STAMP)
	$(BIN)/python -m pytest -q tests/ingest/pgstac $(TEST)

chaos: setup
	CHAOS_SEEDS=40 $(BIN)/python -m pytest -q -s -m chaos tests/running/test_chaos.py $(TEST)

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
	rm -rf $(VENV) $(ADAPTERS) $(PGSTAC) .bench .peers demo out site .pytest_cache .mypy_cache .ruff_cache .hypothesis
