# make demo        creates .venv, installs, fits Old Faithful and saves the figures (make demo ARGS=--no-mcmc: without NUTS)
# make test        creates .venv, installs the test extras, runs the suite
# make study       the tests that take long: studies, installations (marked slow)
# make docs        the documentation, warnings are errors (ARGS="-t norun": the gallery is not run)
# make notebooks   runs the notebooks and stores their outputs (ARGS=03_hidden_markov: that one)
# make lint types clean

PYTHON ?= python
VENV := .venv
BIN := $(VENV)/bin
ARGS ?= $(filter --%,$(MAKECMDGOALS))

# Bytecode makes `import pymc` ten times faster; compiled functions are kept in the checkout.
unexport PYTHONDONTWRITEBYTECODE
export PYTENSOR_FLAGS := base_compiledir=$(CURDIR)/.cache/pytensor
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.1

.PHONY: demo test study lint types docs notebooks clean

demo: $(VENV)/.demo
	$(BIN)/python -m pm_mlem.demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest --doctest-modules -n 2 --dist worksteal -m "not slow" $(ARGS)

study: $(VENV)/.test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.lint $(VENV)/.test
	$(BIN)/pyright

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going $(ARGS) -b html docs docs/_build/html

notebooks: $(VENV)/.docs
	$(BIN)/python docs/make_notebooks.py $(ARGS)

clean:
	rm -rf $(VENV) .cache build dist docs/_build docs/api/generated docs/examples demo_output .pytest_cache .ruff_cache docs/notebooks *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.lint: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

# options given as goals, as in `make demo -- --no-mcmc`
--%:
	@:
