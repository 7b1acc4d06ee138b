# make demo | test | lint | screenshots. Each installs what it needs into .venv first; the second call is instant.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
THREADS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
DEMO ?= output/demo
PARALLEL ?= -n $(THREADS) --dist loadfile

export OMP_NUM_THREADS ?= $(THREADS)
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: venv demo test lint screenshots clean
.DELETE_ON_ERROR:

venv: $(STAMP)

# torch first and at its exact version, so that no other package's range picks a different build of it
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)" -c constraints.txt
	$(BIN)/python -m pip install --quiet -e '.[dev,oracles,host]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps nanodrr==0.1.7 -c constraints.txt  # its torchio is not needed
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/axon demo --output $(DEMO) --force

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest Testing/core $(PARALLEL) --cov --cov-report=term --durations=10
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest Testing/slicer $(PARALLEL) --durations=10

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

screenshots: $(STAMP)
	$(BIN)/axon demo --output output/screenshots --force
	mkdir -p Resources/Screenshots
	cp output/screenshots/report.png Resources/Screenshots/demo.png
	$(BIN)/python Testing/slicer/screenshots.py Resources/Screenshots

clean:
	rm -rf $(VENV) output build dist *.egg-info
