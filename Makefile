# Needs Python >= 3.11 and any make (GNU make 3.81 included). `make PYTHON=python3.12 ...` chooses the interpreter
# that .venv is made with; to change that of a .venv that is there, remove .venv first.

PYTHON ?= python3
BIN := .venv/bin
# Stamps: an installation is repeated only after pyproject.toml or constraints.txt changed.
CORE := .venv/.core-installed
DEV := .venv/.dev-installed
# Tests use one thread each; a process takes about 1.5 GB.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist worksteal
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: help setup fix check test test-all demo bench docs release

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(CORE)  ## restore a shipped photograph with the bundled model, print where the picture is
	@$(BIN)/python examples/demo.py

test: $(DEV)  ## the tests that need neither GPU, network nor patience
	$(BIN)/python -m pytest $(PARALLEL)

test-all: $(DEV)  ## slow tests too, and GPU ones where there is one
	$(BIN)/python -m pytest $(PARALLEL) -m "not network$$($(BIN)/python -c \
	    'import torch; print("" if torch.cuda.is_available() else " and not gpu")')"

check: $(DEV)  ## lint, format, types, import order
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_imports.py

fix: $(DEV)  ## format and repair what ruff can
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

setup: $(DEV)  ## .venv with all that the other targets need

bench: $(DEV)  ## run the benchmarks
	$(BIN)/python -m benchmarks

docs: $(DEV)  ## the documentation as a website, in site/
	$(BIN)/python -m mkdocs build --strict

release: $(DEV)  ## wheel, source archive, SBOM, licences and checksums of this commit, in dist/
	$(BIN)/python scripts/release.py

# pip is the last thing that venv writes, so a half-made .venv is made again.
$(BIN)/pip:
	@command -v "$(PYTHON)" >/dev/null || { \
	    echo "make: '$(PYTHON)' was not found; install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; \
	    exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "make: $$("$(PYTHON)" --version 2>&1) is too old; xpsr needs 3.11 or newer: make PYTHON=python3.12" >&2; \
	    exit 1; }
	"$(PYTHON)" -m venv .venv || { \
	    echo "make: .venv could not be made; on Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    exit 1; }

$(CORE): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing xpsr into .venv; the first time takes minutes."
	$(INSTALL) --editable .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing xpsr and its development tools into .venv; the first time takes minutes."
	$(INSTALL) --editable '.[dev]'
	@touch $(CORE) $@
