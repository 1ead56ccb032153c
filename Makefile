# Each target does its own set-up. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The package as it is installed, where pipelines/, training/ and model_cards/ have their names: a folder of links, for mypy and
# import-linter.
LINKED := build/linked
INSIDE := pipelines training model_cards
# A process a core, four at most; tests/conftest.py gives each a core of its own. A file's tests stay together: they share fixtures.
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install install-locked audit-dependencies demo test test-slow lint sanity evaluation-cost benchmark runtime wheel app docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

install: $(INSTALLED) ## a virtual environment in .venv with pinned packages

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=python3.12, say."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install-locked: ## the same with every file checked against its hash in requirements.lock (Linux, Python 3.11)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)

audit-dependencies: ## known vulnerabilities of the pinned packages (needs a network)
	$(PYTHON) -m venv build/pip-audit && build/pip-audit/bin/pip install --quiet pip-audit
	build/pip-audit/bin/pip-audit --disable-pip --no-deps --requirement constraints.txt

demo: $(INSTALLED) ## audit, train, sample, evaluate and card on the phantom set, in minutes
	rm -rf runs/demo
	$(BIN)/medmnist-diffusion demo --output runs/demo

test: $(INSTALLED) ## lint, types and the tests
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest $(PARALLEL)

test-slow: $(INSTALLED) ## the tests that take minutes
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: $(INSTALLED) ## ruff (style, size of functions), mypy (types), import-linter (who may import whom)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(LINKED) && mkdir -p $(LINKED)/medmnist_diffusion
	@ln -s $(addprefix $(CURDIR)/,$(filter-out $(addprefix medmnist_diffusion/,$(INSIDE) __pycache__),$(wildcard medmnist_diffusion/*)) $(INSIDE)) $(LINKED)/medmnist_diffusion/
	MYPYPATH=$(LINKED) $(BIN)/mypy -p medmnist_diffusion
	MYPYPATH=$(LINKED):benchmarks $(BIN)/mypy tests benchmarks examples
	cd $(LINKED) && $(abspath $(BIN))/lint-imports $(CURDIR)/pyproject.toml

runtime: ## the npm package that a page without a server needs, for its tests (needs npm and a network)
	mkdir -p build
	npm pack --silent --pack-destination build \
		"$$(sed -n 's/^RUNTIME, VERSION = "\(.*\)", "\(.*\)"$$/\1@\2/p' medmnist_diffusion/app/page.py)" >/dev/null

wheel: ## the package as a file, in dist
	$(PYTHON) -m venv build/wheel && build/wheel/bin/pip install --quiet build
	rm -rf dist && build/wheel/bin/python -m build --wheel --outdir dist .

app: $(INSTALLED) ## the page to look at pipelines
	$(BIN)/medmnist-diffusion app

docs: $(INSTALLED) ## the documentation site, in build/docs; a warning, such as a dead link, is an error
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs

sanity: $(INSTALLED) ## benchmark: which metric sees which fault (PneumoniaMNIST from MEDMNIST_ROOT)
	$(BIN)/python benchmarks/metric_sanity.py

evaluation-cost: $(INSTALLED) ## benchmark: time and memory of an evaluation
	$(BIN)/python benchmarks/evaluation_cost.py

benchmark: $(INSTALLED) ## benchmark: time to the quality of peers, about 150 minutes (PneumoniaMNIST from MEDMNIST_ROOT)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python benchmarks/time_to_quality.py

clean: ## remove what the targets made
	rm -rf $(VENV) build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
