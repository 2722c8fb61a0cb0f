# slimline: `make bench` and `make test` set up everything they need.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TORCH_CPU := https://download.pytorch.org/whl/cpu

.PHONY: help setup itrex bench test testall coverage pictures benchmarks check format lock clean

help: ## Print this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

setup: .venv/.ready ## Virtual environment at .venv with every dependency pinned, torch for the CPU

# Packages are compiled on every core, as pip has one; like pip, this forgives what does not compile.
# torch comes first and from its CPU index where that can be reached: its default build on Linux carries CUDA (3 GB).
.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=26'
	index=$$($(BIN)/python -c "import urllib.request as u; u.urlopen('$(TORCH_CPU)/torch/', timeout=5)" 2>/dev/null \
		&& echo "--index-url $(TORCH_CPU)" || true); \
	$(BIN)/python -m pip install --quiet --no-compile $$index "$$(grep '^torch==' requirements.lock)"
	$(BIN)/python -m pip install --quiet --no-compile --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	mkdir -p .venv/src/slimline && ln -sfn $(addprefix ../../../,flows tasks storage dashboards) .venv/src/slimline/
	$(BIN)/python -m compileall -q flows tasks storage dashboards
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	$(BIN)/python -m slimline.flows.cli.flow_runner
	touch $@

# An environment of its own, below .venv: Intel's library needs numpy 1 and transformers 4.
itrex: setup ## Environment of the steps itrex-group-lasso and itrex-dynamic-int8, for Python 3.11 on x86
	$(BIN)/python -m slimline.tasks.itrex.environment

bench: setup ## Build every variant of the default study, measure it here, print the result table
	$(BIN)/slimline run

# Test files run side by side; tests/conftest.py puts those that take longest first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: setup ## Run the tests
	$(PYTEST)

testall: setup ## Run them and those that take minutes: real models, servers, Slurm, PostgreSQL, the UI
	$(PYTEST) -m ''

pictures: setup ## Draw the picture of the README, from the newest run of the compression study
	$(BIN)/slimline report --study compression --figures build/pictures
	cp build/pictures/overview.svg docs/pictures/

coverage: export PYTEST_ADDOPTS = --cov --cov-report=term
coverage: testall ## Run all tests, and print what they cover in pytest's own processes

benchmarks: setup ## Measure slimline itself: start-up, queries, Prefect's share, the dashboard
	$(BIN)/python -m benchmarks

check: setup ## Lint, format, types, layers, dependencies, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/codespell

format: setup ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: ## Resolve requirements.lock anew from pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade 'pip>=26'
	.venv-lock/bin/python -m pip install --quiet '.[all,dev]'
	.venv-lock/bin/python -m pip freeze --all --exclude slimline --exclude pip | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean: ## Remove the environment and all state
	rm -rf .venv .slimline
