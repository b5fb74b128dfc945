# Ken. `make demo` and `make test` are all a newcomer needs; both install what they need into .venv once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format docs bench claims lab clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Ken needs Python 3.11 or newer; name one with: make PYTHON=python3.12 setup"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP) ## install into .venv (the tool is then .venv/bin/ken)

demo: setup ## build a small world, audit four strategies on it, show traced questions, and teach the model what it knows
	@$(BIN)/ken demo

# Two processes with one thread each are the fastest on two cores; tests of one file share what they set up.
WORKERS ?= 2
PYTEST  := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test: setup ## the tests, without those marked slow
	$(PYTEST)

test-slow: setup ## every test
	$(PYTEST) -m ''

check: setup ## lint, types, import contracts
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: setup ## build the documentation into site/, strictly and without the network; open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup ## measure against peers and rewrite bench/RESULTS.md, TRAINING.md, SERVING.md and GRAPH.md
	$(BIN)/python bench/search.py --write
	$(BIN)/python bench/training.py --write
	$(BIN)/python bench/serving.py --write
	$(BIN)/python bench/graph.py --write

claims: setup ## check the claims of every paper that runs, one process a paper; goes on where it stopped
	@failed=0; for slug in $$($(BIN)/python -c 'from ken.papers.catalogue import rows; print(*rows())'); do \
		$(BIN)/ken reproduce $$slug || { [ $$? -ne 130 ] || exit 130; failed=1; }; done; exit $$failed

lab: setup ## rebuild the shipped FactWorld checkpoint from its seed
	$(BIN)/ken lab build factworld --out src/ken/models/checkpoints/factworld

clean: ## remove what `make` made
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
