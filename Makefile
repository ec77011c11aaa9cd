# Two commands are all the set-up: `make demo` and `make test`.
# ARGS= passes options through: make demo ARGS=--once, make test ARGS="-k retry".

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
PIP     = $(BIN)/python -m pip --disable-pip-version-check --quiet

BENCH_VENV   ?= .venv-bench
BENCH_PYTHON ?= $(shell /usr/bin/python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
                  2>/dev/null && echo /usr/bin/python3 || echo $(PYTHON))
BENCH_PIP     = $(BENCH_VENV)/bin/python -m pip --disable-pip-version-check --quiet

# Two test files at a time, each in one process and in its order; -n 0 in ARGS: one after the other.
SIDE_BY_SIDE = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check bench soak parts docs clean

demo: $(VENV)/.run
	@$(BIN)/meshctl demo $(ARGS)

test: $(VENV)/.dev parts check
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

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

# Measured on the interpreter that hosts run, in an environment of its own: a Python
# built without profile-guided optimization costs about 30 % more CPU.
bench: parts $(BENCH_VENV)/.ready
	@$(BENCH_VENV)/bin/python -m bench $(ARGS)

# Half an hour on two cores: 5 GB each way over each protocol, a million short requests.
soak: $(VENV)/.dev parts
	@$(BIN)/python -m tests.soak $(ARGS)

parts: $(VENV)/.dev
	@$(BIN)/python tests/parts/install.py

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "there is no $(PYTHON) on PATH: install it with 'apt install python3 python3-venv', or say which to use: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "baremesh needs Python 3.11 or later; $(PYTHON) is older. Say which to use: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "the venv module is missing: install it with 'apt install python3-venv' and run make again"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt setup.cfg | $(VENV)/bin/python
	@echo "installing what baremesh runs on into $(VENV) ..."
	@$(PIP) install -r requirements.txt && $(PIP) install --no-deps -e . || \
	  { echo "pip says above what it lacks; it needs a package index (network, proxy, pip.conf). Then run make again"; exit 1; }
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "installing what the tests need into $(VENV) ..."
	@$(PIP) install -r requirements-dev.txt
	@touch $@

$(BENCH_VENV)/.ready: requirements-bench.txt requirements.txt setup.cfg
	@echo "installing what the benchmark needs into $(BENCH_VENV), for $(BENCH_PYTHON) ..."
	@$(BENCH_PYTHON) -m venv --clear $(BENCH_VENV)
	@$(BENCH_PIP) install -r requirements-bench.txt
	@$(BENCH_PIP) install --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) $(BENCH_VENV) .demo .parts bench/out build dist *.egg-info
