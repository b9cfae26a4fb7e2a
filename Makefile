# `make demo` runs the main job on the embedded benchmark and draws the figures; `make test` passes the tests,
# `make bench` measures speed.
# Both create the environment where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EPOCHS ?= 100
SEEDS ?= 0:3

ifneq ($(wildcard ../shared/data),)
NAS_STABILITY_DATA ?= $(abspath ../shared/data)
export NAS_STABILITY_DATA
endif

.PHONY: env demo bench test test-all lint clean

env: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# What takes longest starts first.
demo: env
	$(BIN)/python -m bench.run --benchmark embedded --space s1 --seeds $(SEEDS) --epochs $(EPOCHS) \
		--methods sdarts_adv,ms_darts,darts,pc_darts,gdas,sdarts_rs,rdarts_l2,random_ws
	$(BIN)/python -m analysis.figures --where epochs=$(EPOCHS)
	$(BIN)/python -m analysis.tables --where epochs=$(EPOCHS)
	$(BIN)/python -m analysis.predict --where epochs=$(EPOCHS)

# Everything at the embedded size, then three parts at the papers' width (docs/speed.md).
bench: env
	$(BIN)/python -m bench.speed --space s1 --methods all

test: env
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

test-all: env
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: env
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# What can be drawn again; searches stay.
clean:
	rm -rf $(VENV) figures tables report
