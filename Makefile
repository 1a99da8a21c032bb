# Python and make are all a fresh machine needs; everything else comes from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 0

# Where the environment forbids it to keep bytecode, each of the many processes that tests start compiles everything anew: seconds of CPU each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test soak check lint types imports format lock clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed, this is " + sys.version.split()[0] + "; name another with: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/poller demo $(if $(filter-out 0,$(SECONDS)),--seconds $(SECONDS))

# Most tests run side by side, the long ones first. The two that hold calls and delays against the clock have the machine to themselves.
TIMED := tests/acceptance/test_budget.py tests/acceptance/test_demo.py

test: setup
	$(BIN)/pytest -m "not soak" -n 4 --dist loadscope --no-loadscope-reorder $(TIMED:%=--ignore %) tests/acceptance tests/contract tests/integration tests/thirdparty tests/unit
	$(BIN)/pytest -m "not soak" $(TIMED)

soak: setup
	$(BIN)/pytest -m soak --timeout 1800

check: lint types imports test

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

imports: setup
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs uv. The lock names versions and hashes only, never where they came from.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --output-file requirements.lock

clean:
	rm -rf $(VENV) .poller .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
