PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help venv demo test lint types docs build clean

help:  ## Show what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

venv: $(STAMP)  ## Create .venv with the pinned dependencies (PYTHON=python3.12 for another Python)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "quala needs Python 3.11 to 3.13; say which, e.g. make PYTHON=python3.11" >&2; exit 2; }
	@echo "Installing quala and its pinned dependencies into $(VENV) (a few minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[demo,dev,docs]" --constraint constraints.txt
	@touch $@

demo: venv  ## Ask the pretrained model, then run the whole workflow on embedded data (minutes on 2 cores)
	@$(BIN)/quala answer minilm-squad --keep 0.7 --question "Who designed the engine?" \
		--context "The difference engine was designed by Charles Babbage in the 1820s; Ada Lovelace wrote about its successor."
	@$(BIN)/quala run quala_minilm experiment=demo stage.measure.runtime=onnxruntime
	@echo "Next, your own model and data (minutes; --plan says first what it will do):"
	@echo "  $(BIN)/quala compress MY-MODEL --data MY.csv --out small && $(BIN)/quala serve small --budget-ms 5"

test: lint types  ## Lint, check types, run the tests
	$(BIN)/pytest -q -n $(JOBS)

lint: venv  ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv  ## Check the types of src and workflows
	$(BIN)/mypy

docs: venv  ## Build the documentation as a site into site/; a warning ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The site is in site/: $(BIN)/mkdocs serve shows it while you write"

build: venv  ## Build the wheel and the source archive into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## Remove the environment, builds and caches (runs in mlruns/ stay)
	rm -rf $(VENV) dist build site .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
