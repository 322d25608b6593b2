# Every wish is one word; `make` alone lists them.
#
#   PYTHON=/path/to/python   which interpreter the environment is made of (default: the first of those below that serves)
#   PIP_ARGS="..."           more arguments for pip, for example a CPU-only build of torch (a far smaller download):
#                            PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   PYTEST_ARGS="..."        more arguments for pytest
#   SOAK_KILLS=200           how often `make soak` kills at random; SOAK_SEED=... repeats what a soak has printed
#   WORKERS=3                how many processes pytest uses; 0 runs in one

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3.13 python3.12 python3.11 python3
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 3
DEMO_ARGS ?=
BENCH_ARGS ?=

# Nothing reports home: these are read by MLflow, Prefect and Hugging Face libraries.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_DISABLE_TELEMETRY := 1

# Each stamp says which extras were installed; it is older than the two files whenever the installation is.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench
LITGPT_VENV := .venv-litgpt
LITGPT_VERSION := 0.5.13
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install install-dev test test-statistics test-services test-all soak screenshots check format bench bench-peers clean distclean

help: ## list these words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## run the whole chain on the documentation of the installed packages (DEMO_ARGS="--force" recomputes)
	$(BIN)/gptworks pipeline --preset demo $(DEMO_ARGS)

test: $(INSTALLED_DEV) ## run the tests (without the slow ones)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-statistics: $(INSTALLED_DEV) ## the judge: coverage, power over hundreds of seeds, broken guards, 20 kills
	$(BIN)/pytest -n $(WORKERS) -m statistics $(PYTEST_ARGS) tests/eval

test-services: $(INSTALLED_DEV) ## kill servers, workers and flows and see what becomes of their runs; about 20 minutes
	$(BIN)/pytest -n 0 -m services $(PYTEST_ARGS) tests/flows/services

test-all: $(INSTALLED_DEV) ## run every test that this machine can run, but for the soak
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not soak" $(PYTEST_ARGS)

soak: $(INSTALLED_DEV) ## kill training runs by SIGKILL, at random and at each file operation, and compare (SOAK_KILLS=200 SOAK_SEED=1)
	$(BIN)/pytest -n 0 -m soak $(PYTEST_ARGS)

screenshots: $(INSTALLED_DEV) ## pictures of real runs for the documentation; needs Chromium (apt-get install chromium)
	$(BIN)/python -m docs.screenshots

check: $(INSTALLED_DEV) ## format, lint, types, import contracts; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED_DEV) ## rewrite the code in the house's format and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(INSTALLED_BENCH) bench-peers ## speed and memory beside peers, about an hour; BENCH_ARGS="--smoke" only shows that it runs
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-peers: $(LITGPT_VENV)/.installed ## make the environment of litgpt, which cannot share one with today's transformers

install: $(INSTALLED) ## make .venv with what running needs
install-dev: $(INSTALLED_DEV) ## make .venv with what developing needs

clean: ## remove caches and build leftovers; results in var/ and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .coverage
	find . -path ./$(VENV) -prune -o -path ./var -prune -o -type d -name __pycache__ -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too
	rm -rf $(VENV) $(LITGPT_VENV)

# A name on PATH proves nothing (version managers leave shims of what is not there), so each candidate is run.
$(BIN)/python:
	@for python in $(PYTHON); do \
		"$$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "$(VENV): $$("$$python" -V) ($$(command -v "$$python"))"; \
		exec "$$python" -m venv $(VENV); \
	done; \
	echo "None of these is a Python 3.11 or later that can make virtual environments: $(PYTHON)" >&2; \
	echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or say make PYTHON=/path/to/python" >&2; \
	exit 1

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(INSTALLED_DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[dev,test]'
	@touch $(INSTALLED) $@

$(INSTALLED_BENCH): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[bench]'
	@touch $(INSTALLED) $@

# torch is pinned as for the project; what litgpt itself wants beside it is its own affair.
$(LITGPT_VENV)/.installed: constraints.txt | $(BIN)/python
	$(BIN)/python -m venv $(LITGPT_VENV)
	$(LITGPT_VENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) \
		"$$(grep '^torch==' constraints.txt)" litgpt==$(LITGPT_VERSION)
	@touch $@
