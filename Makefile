# `make repro` and `make test` do everything, including the set-up. `make help` lists the rest.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
INSTALL := $(BIN)/python -m pip install --quiet --no-deps --require-hashes

# Nothing here talks to anyone: no analytics, no telemetry; OpenMP threads sleep instead of spinning.
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1
export GX_ANALYTICS_ENABLED := false
export TOKENIZERS_PARALLELISM := false
export GOMP_SPINCOUNT := 0
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup repro test lint lock wheel clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv with everything pinned in requirements.lock, and install this checkout into it

repro: $(STAMP)  ## set up if needed, run the pipeline, print the verdict and where the report is
	holdfast validate
	dvc repro
	@holdfast gate --check; code=$$?; echo "report: reports/report.md and reports/index.html"; exit $$code

test: $(STAMP)  ## set up if needed, run the test suite
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 pytest -n 2 --dist loadfile --no-loadscope-reorder  # the long files begin before the end

lint: $(STAMP)  ## check format, lint and types
	ruff format --check . && ruff check . && mypy

lock: $(STAMP)  ## write requirements*.lock and docs/licences.md from what is installed
	pip install --quiet uv
	python .ci/lock.py

wheel: $(STAMP)  ## build dist/holdfast-*.whl, with the scaffold of a user's project and the pocket lab in it
	rm -rf build dist
	pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build
	@ls dist

clean:  ## remove the caches of finished work; outputs and models stay
	rm -rf build dist .cache .pytest_cache .mypy_cache .ruff_cache

# Every file is checked against the hashes in the locks: setuptools first, which builds the few that have no wheel, and this checkout;
# then torch's CPU build, for of torch==VERSION pip takes the index's, whose hash it is shown.
$(STAMP): requirements.lock requirements-cpu.lock requirements-cuda.lock pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --only-binary :all: --requirement <(sed -n '/^setuptools==/,/[^\\]$$/p' requirements.lock)
	$(INSTALL) --requirement requirements-cpu.lock 2>.venv/torch.log || \
		{ ! grep -A9 "DO NOT MATCH THE HASHES" .venv/torch.log && echo "pip finds no CPU build of torch: the index's is taken"; }
	$(INSTALL) --no-build-isolation --requirement requirements.lock
	! $(BIN)/python -m pip show torch | grep -q '^Requires:.*nvidia' || $(INSTALL) --requirement requirements-cuda.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@
