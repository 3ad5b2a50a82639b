# `make train` and `make test` are the two commands of the README; `make check` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c .ci/constraints.txt

.PHONY: setup train test lint check bench

train: $(VENV)/.installed
	$(BIN)/python tools/train.py --model fcn8s

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint test

bench: $(VENV)/.installed-test
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

setup: $(VENV)/.installed-test

$(VENV)/.installed: setup.py .ci/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e .[test]
	touch $@
