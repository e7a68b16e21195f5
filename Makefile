# Two commands for a newcomer: `make demo` and `make test`. Needed: make and Python 3.11 or newer.
#
#   make demo PYTHON=python3.12      another Python
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                                    a smaller torch, without the GPU libraries
#
# Each step of the set-up leaves a stamp in the environment, so the second call starts at once.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PICTURE := examples/shapes.png
QUESTION := What shape is red?

.DEFAULT_GOAL := help
.PHONY: help demo test slow check format wheel constraints clean

help:  ## these lines
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

demo: $(VENV)/stamp-library  ## set up, then ask the built-in model about a picture
	@echo
	@echo '$$ beholder ask $(PICTURE) "$(QUESTION)"'
	@$(BIN)/beholder ask $(PICTURE) "$(QUESTION)"
	@echo
	@echo "Ask more, in a conversation:    $(BIN)/beholder chat $(PICTURE)"
	@echo "Ask about a picture of yours:   $(BIN)/beholder ask PICTURE QUESTION"

test: $(VENV)/stamp-development  ## set up for development, then run the default tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

slow: $(VENV)/stamp-development  ## the tests left out there: servers, clusters, browsers, every command of the pages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not network and not weights"

check: $(VENV)/stamp-development  ## format, lint, import contract, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/stamp-development  ## mend format and lint where a tool can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(VENV)/stamp-development  ## build the wheel, install it apart, run the README from it
	VENV=$(VENV) .ci/wheel

constraints: $(VENV)/stamp-development  ## write constraints.txt from this environment
	@sed -n '/^#/p' constraints.txt > $(VENV)/constraints
	@$(PIP) freeze --exclude-editable | sed -n 's/^\([^#]*==[^+]*\).*/\1/p' | LC_ALL=C sort -f >> $(VENV)/constraints
	@mv $(VENV)/constraints constraints.txt

clean:  ## remove the environment and everything built
	rm -rf $(VENV) .venv-wheel dist build .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/stamp-python:
	@command -v $(PYTHON) > /dev/null || \
	  { echo "There is no $(PYTHON) here; install Python 3.11 or newer, or name yours: make demo PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Beholder needs Python 3.11 or newer and this is $$($(PYTHON) --version); name another: make demo PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	  { echo "$(PYTHON) cannot make environments; on Debian and Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# torch comes first and by itself: it is the large one, and the only one that has builds to choose from.
$(VENV)/stamp-torch: $(VENV)/stamp-python constraints.txt
	@echo "Installing torch; the first time this downloads a lot."
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) -c constraints.txt torch
	@touch $@

$(VENV)/stamp-library: $(VENV)/stamp-torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/stamp-development: $(VENV)/stamp-torch pyproject.toml
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/stamp-library
