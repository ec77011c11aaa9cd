# Two commands are all the set-up: `make demo` and `make test`.
# ARGS= passes options through: make demo ARGS=--once, make test ARGS="-k retry".

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test check bench parts docs clean

demo: $(VENV)/.run
	@$(BIN)/meshctl demo $(ARGS)

test: $(VENV)/.dev parts check
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --strict meshkit meshd gateway ca meshctl
	@$(BIN)/python -m pytest -q tests/architecture
	@$(BIN)/python -m meshkit.telemetry.docs --check docs/metrics.md
	@$(BIN)/python -m meshkit.model.docs --check docs/fields.md
	@$(BIN)/python -m meshctl.tree --check docs/cli.md

docs: $(VENV)/.dev
	@$(BIN)/python -m meshkit.telemetry.docs > docs/metrics.md
	@$(BIN)/python -m meshkit.model.docs > docs/fields.md
	@$(BIN)/python -m meshctl.tree > docs/cli.md

bench: $(VENV)/.bench parts
	@$(BIN)/python -m bench $(ARGS)

parts: $(VENV)/.dev
	@$(BIN)/python tests/parts/install.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "baremesh needs Python 3.11 or later; $(PYTHON) is older. Say which to use: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "the venv module is missing: install it with 'apt install python3-venv' and run make again"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt setup.cfg | $(VENV)/bin/python
	@echo "installing what baremesh runs on into $(VENV) ..."
	@$(PIP) install -r requirements.txt
	@$(PIP) install --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "installing what the tests need into $(VENV) ..."
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.dev
	@$(PIP) install -r requirements-bench.txt
	@touch $@

clean:
	rm -rf $(VENV) .demo .parts bench/out build dist *.egg-info
