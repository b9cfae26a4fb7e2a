# `make demo` runs the main job on the embedded benchmark and draws the figures; `make test` passes the tests.
# Both create the environment where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EPOCHS ?= 100
SEEDS ?= 0:2

ifneq ($(wildcard ../shared/data),)
NAS_STABILITY_DATA ?= $(abspath ../shared/data)
export NAS_STABILITY_DATA
endif

DEMO := $(BIN)/python -m bench.run --benchmark embedded --seeds $(SEEDS) --epochs $(EPOCHS) --threads 1

.PHONY: env demo demo-toy demo-s1 demo-s1-unrolled test test-all lint clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: env
	$(MAKE) --jobs=2 demo-s1-unrolled demo-toy demo-s1
	$(BIN)/python -m analysis.figures
	$(BIN)/python -m analysis.tables

# Two processes of one thread each; the unrolled search takes longest and starts first.
demo-s1-unrolled: env
	$(DEMO) --space s1 --methods darts_2nd

demo-toy: env
	$(BIN)/python -m bench.tables build --space toy --dataset digits --threads 1
	$(DEMO) --space toy --methods darts,darts_2nd,random_ws

demo-s1: env
	$(DEMO) --space s1 --methods darts,random_ws

test: env
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: env
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: env
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) figures results/runs results/stacks results/locks
