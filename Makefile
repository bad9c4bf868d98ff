# Every target sets up what it needs. `make demo` and `make test` are all that a new machine wants.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.complete

# Compiled code is kept even where the caller's shell forbids it: half of the time of a short run is compilation.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check lint chaos bench lock protos wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt scripts/setup
	@scripts/setup $(VENV)

demo: $(STAMP) ## run the main job on an embedded Ray cluster and print what ran where
	@scripts/packages bubblewrap
	@scripts/with-engine $(BIN)/python -m examples.digits

run: $(STAMP) ## start arcray here and serve until Ctrl-C
	@$(BIN)/arcray up

test: $(STAMP) ## install the real components where that is possible, then check and run every test
	@scripts/test $(BIN)

check: lint ## format, lint, types, import contracts and unit tests: under a minute
	@$(BIN)/python -m pytest tests/unit

lint: $(STAMP) ## format, lint, types and import contracts
	@scripts/lint $(BIN)

chaos: $(STAMP) ## run the long rounds of every test that has some, 45 minutes at most, and say how much was looked at
	@scripts/packages postgresql
	@ARCRAY_CHAOS=1 $(BIN)/python -m pytest -v -m chaos --session-timeout 2700 --durations=10

bench: $(STAMP) ## measure every figure against its bare counterpart and its budget
	@scripts/packages wrk
	@scripts/with-engine $(BIN)/python -m pytest tests/bench/bench_*.py -m bench -s --timeout 900

lock: ## write constraints.txt anew from what pyproject.toml asks for
	@scripts/lock

protos: $(STAMP) ## write the Python of protos/ anew
	@scripts/protos $(BIN)

wheel: $(STAMP) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --outdir dist

clean: ## remove what these targets made
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
