# Two commands do it all: `make demo` (install, then the main job) and `make check` (lint, types, tests).
# Another torch: make demo TORCH='torch==2.12.0'. Another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
TRIALS ?= 1000
RESULTS ?= runs/gpu
# test processes beside each other: one for each core, 8 at most; those on a GPU share its memory
WORKERS ?= auto
GPU_WORKERS ?= 8
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo check format lint types test test-slow test-gpu faults bench gpu-results quality policies clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first: left to the resolver, a CPU machine would fetch gigabytes of CUDA libraries
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "$(TORCH)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev,interpreter]'
	@touch $@

demo: $(VENV)/.installed  ## install, then replay the mixed trace and write a report
	$(BIN)/harness run --trace mixed.jsonl

check: lint types test  ## lint, types and the default tests; CI adds test-slow

format: $(VENV)/.installed-dev  ## rewrite the sources in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

test: $(VENV)/.installed-dev  ## the default suite, in WORKERS processes
	$(BIN)/pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

test-slow: $(VENV)/.installed-dev  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-gpu: $(VENV)/.installed-dev  ## the tests that need a CUDA device, in GPU_WORKERS processes
	$(BIN)/pytest -m gpu --numprocesses $(GPU_WORKERS) --dist worksteal
	$(BIN)/pytest -m 'gpu and alone'

faults: $(VENV)/.installed-dev  ## kill -9 TRIALS imports and look at what is left
	$(BIN)/pytest -m slow tests/meswitch/test_import_faults.py --trials $(TRIALS) \
		--trials-out reports/results/faults/import-kill9.json

bench: $(VENV)/.installed-dev  ## micro-benchmarks of the codecs
	$(BIN)/pytest -m benchmark tests/benchmarks

gpu-results: $(VENV)/.installed  ## kernels, steps, prompts, memory, answers, switches and sweeps of this GPU, into RESULTS
	$(BIN)/python -m meswitch_kernels.bench --json $(RESULTS)/kernels.json
	$(BIN)/harness decode --family mistral-7b --table $(RESULTS)/decode.json
	$(BIN)/harness prefill --family mistral-7b --single --table $(RESULTS)/prefill.json
	$(BIN)/harness memory --family mistral-7b --experts 16 --kv-tokens 32768 --memory-budget 76GiB --table $(RESULTS)/memory.json
	$(BIN)/harness parity pocket --n 20 --table $(RESULTS)/parity.json
	$(BIN)/harness switching --out $(RESULTS)/sweeps/switching
	$(BIN)/harness sweep --preset another --out $(RESULTS)/sweeps/another
	$(BIN)/harness sweep --preset headline --out $(RESULTS)/sweeps/headline

quality: $(VENV)/.installed  ## answer quality of 2-bit and 1-bit codecs on the pocket family
	$(BIN)/harness quality pocket

policies: $(VENV)/.installed  ## hit rates of eviction policies, as docs/policies.md shows them
	$(BIN)/harness policies --markdown --out reports/results/policies/mixed.json \
		--trace mixed.jsonl --slots 2 --slots 4 --slots 6 --queue 8 --max-delay 16
	$(BIN)/harness policies --markdown --out reports/results/policies/ahead.json \
		--trace mixed.jsonl --slots 2 --slots 4 --slots 6 --prefetch 4 --load-positions 2
	$(BIN)/harness policies --markdown --out reports/results/policies/zipf.json \
		--synthetic zipf:1.0,experts=64 --slots 8 --slots 16 --slots 32 --queue 16 --max-delay 32
	$(BIN)/harness policies --markdown --out reports/results/policies/markov.json \
		--synthetic zipf:1.0,experts=64,switch=0.3 --slots 8 --slots 16 --slots 32 --queue 16 --max-delay 32
	$(BIN)/harness policies --markdown --out reports/results/policies/drift.json \
		--synthetic zipf:1.0,experts=64,drift=20 --slots 8 --slots 16 --slots 32 --queue 16 --max-delay 32

clean:  ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
