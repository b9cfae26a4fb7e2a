# make demo: environment, main job on the embedded benchmark, figures. make test: environment if needed, tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EPOCHS ?= 100
SEEDS ?= 0:2

ifneq ($(wildcard ../shared/data),)
NAS_STABILITY_DATA ?= $(abspath ../shared/data)
export NAS_STABILITY_DATA
endif

.PHONY: env demo test test-all lint clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: env
	$(BIN)/python -m bench.tables build --space toy --dataset digits
	$(BIN)/python -m bench.run --benchmark embedded --space toy --methods all --seeds $(SEEDS) --epochs $(EPOCHS)
	$(BIN)/python -m bench.run --benchmark embedded --space s1 --methods all --seeds $(SEEDS) --epochs $(EPOCHS)
	$(BIN)/python -m analysis.figures

test: env
	$(BIN)/python -m pytest -m "not slow"

test-all: env
	$(BIN)/python -m pytest

lint: env
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

clean:
	rm -rf $(VENV) figures results/runs results/stacks
