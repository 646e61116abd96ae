# Needs make and python3 >= 3.11 with venv and pip. Everything else goes into .venv, pinned by hash.

PYTHON ?= python3
DATA ?= ../shared/data
AS_OF = 2025-01-24
BIN = .venv/bin
UNIVERSE = universes/ai_curve

# OpenBLAS adds up in another order with another number of threads.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n 2 --dist worksteal
PEERS = cvxportfolio PyPortfolioOpt riskfolio-lib skfolio
SHA256 = $(PYTHON) -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())'
PIP = PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip -qq
UV_COMPILE = build/uv/bin/uv pip compile pyproject.toml --quiet --universal --generate-hashes \
  --no-emit-index-url --no-annotate --no-header --python-version 3.11 $(UPGRADE)

MAKEFLAGS += --no-print-directory
.NOTPARALLEL:
.PHONY: help run test all static soak bench format lock universe clean python runtime dev

help: ## print this
	@echo 'make run       install, stress the bundled books, rebalance them into out/'
	@echo 'make test      the tests'
	@echo 'make all       format, lint, types, import contracts, tests: what CI runs'
	@echo 'make soak      the tests and the long ones that make test leaves out'
	@echo 'make bench     what a rebalance costs beside Clarabel and the peers, into build/bench (half an hour)'
	@echo 'make format    put the code into the form that make all asks for'
	@echo 'make lock      remake both lock files; UPGRADE=--upgrade moves to the newest versions'
	@echo 'make universe  rebuild the bundled universe from raw prices in DATA=$(DATA)'
	@echo 'make clean     remove .venv and all that was built; out/ stays'

run: runtime
	$(BIN)/engine stress --scenario deepseek
	$(BIN)/engine rebalance --out out

test: dev
	@$(PYTEST)

all: static test

static: dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --cache-dir build/import-linter

soak: dev
	@$(PYTEST) -m 'soak or not soak'

# The peers get an environment of their own: nothing of theirs is ever a dependency.
bench: dev
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip -qq --disable-pip-version-check install $(PEERS)
	$(ONE_THREAD) $(BIN)/python tests/benchmarks/rebalance.py build/bench build/peers/bin/python

format: dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The dev lock comes first and binds the runtime lock, so that one .venv can serve both.
lock: python
	$(PYTHON) -m venv --clear build/uv
	build/uv/bin/python -m pip -qq --disable-pip-version-check install uv
	$(UV_COMPILE) --extra build --extra dev --output-file requirements-dev.lock
	$(UV_COMPILE) --extra build --constraints requirements-dev.lock --output-file requirements.lock
	@! grep -n '://' requirements.lock requirements-dev.lock

universe: python
	@if [ ! -f $(DATA)/prices.parquet ]; then \
	  echo 'make universe: no $(DATA)/prices.parquet; raw prices are not part of the project, give DATA=FOLDER' >&2; \
	  exit 1; \
	fi
	@$(MAKE) runtime
	$(ONE_THREAD) $(BIN)/python universes/build.py $(DATA)
	$(ONE_THREAD) $(BIN)/engine calibrate --prices $(DATA)/prices.parquet --as-of $(AS_OF) --out $(UNIVERSE)/model

clean:
	rm -rf .venv build dist .hypothesis .import_linter_cache
	find engine tests universes -name __pycache__ -type d -prune -exec rm -rf {} +

python:
	@command -v $(PYTHON) >/dev/null 2>&1 || \
	  { echo 'make: no $(PYTHON) here; install Python 3.11 or newer, or give PYTHON=/path/to/it' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'make: $(PYTHON) is too old; Python 3.11 or newer is needed, or give PYTHON=/path/to/it' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo 'make: $(PYTHON) lacks venv or pip; install them (Debian: apt install python3-venv)' >&2; exit 1; }

# A stamp is written last and carries the hash of its lock: what is half installed or outdated is made anew.
runtime: python
	@runtime=$$($(SHA256) requirements.lock) && dev=$$($(SHA256) requirements-dev.lock) && \
	if [ ! -e .venv/.runtime-$$runtime ] && [ ! -e .venv/.dev-$$dev ]; then \
	  echo 'installing requirements.lock into .venv, about a minute' >&2 && \
	  $(PYTHON) -m venv --clear .venv && \
	  $(PIP) install --require-hashes -r requirements.lock && \
	  $(PIP) install --no-deps --no-build-isolation -e . && \
	  touch .venv/.runtime-$$runtime; \
	fi

dev: python
	@runtime=$$($(SHA256) requirements.lock) && dev=$$($(SHA256) requirements-dev.lock) && \
	if [ ! -e .venv/.dev-$$dev ]; then \
	  echo 'installing requirements-dev.lock into .venv, about a minute' >&2 && \
	  { [ -e .venv/.runtime-$$runtime ] || $(PYTHON) -m venv --clear .venv; } && \
	  $(PIP) install --require-hashes -r requirements-dev.lock && \
	  $(PIP) install --no-deps --no-build-isolation -e . && \
	  touch .venv/.dev-$$dev; \
	fi
