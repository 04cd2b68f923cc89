# make demo        creates .venv, installs, fits Old Faithful and saves the figures (make demo ARGS=--no-mcmc: without NUTS)
# make quick       the inner loop: all tests without a compiler (ARGS="-k poisson" here and below)
# make test        creates .venv, installs the test extras, runs the suite
# make documents   runs what the README, the guides, the notebooks and the gallery say
# make plain       the core tests beside nothing but what `pip install .` brings, in .venv-plain
# make study       the tests that take long (RANDOM_MODELS=0: without 10,000 random models; UNITS_MODELS=2000: more units)
# make docs        the documentation, warnings are errors (ARGS="-t norun": the gallery is not run)
# make notebooks   runs the notebooks and stores their outputs (ARGS=03_hidden_markov: that one)
# make lint types clean

PYTHON ?= python
VENV := .venv
PLAIN := .venv-plain
BIN := $(VENV)/bin
ARGS ?= $(filter --%,$(MAKECMDGOALS))
PYTEST := python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
RANDOM_MODELS ?= 10000
CORE := test_package.py graph/test_structures.py objective/test_structures.py objective/test_verify.py \
        optimize/test_zoo.py doors/test_fit.py doors/test_explain.py doors/test_marginalize.py results/test_results.py

# Bytecode makes `import pymc` ten times faster; compiled functions are kept in the checkout.
unexport PYTHONDONTWRITEBYTECODE
export PYTENSOR_FLAGS := base_compiledir=$(CURDIR)/.cache/pytensor
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0

.PHONY: demo quick test documents plain study lint types docs notebooks clean

demo: $(VENV)/.demo
	$(BIN)/python -m pm_mlem.demo $(ARGS)

quick: $(VENV)/.test
	$(BIN)/$(PYTEST) tests -m "not compiled and not documents and not slow" $(ARGS)

test: $(VENV)/.test
	$(BIN)/$(PYTEST) --doctest-modules -m "not documents and not slow" $(ARGS)

documents: $(VENV)/.test
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/$(PYTEST) tests/documents -m "not slow" $(ARGS)

plain: $(PLAIN)/.installed
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PLAIN)/bin/$(PYTEST) $(addprefix tests/,$(CORE)) -m "not slow" $(ARGS)

study: $(VENV)/.test
	RANDOM_MODELS=$(RANDOM_MODELS) $(BIN)/$(PYTEST) tests -m slow $(ARGS)

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
	rm -rf $(VENV) $(PLAIN) .cache build dist docs/_build docs/api/generated docs/examples demo_output .pytest_cache .ruff_cache docs/notebooks *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(PLAIN)/bin/python:
	$(PYTHON) -m venv $(PLAIN)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test $(VENV)/.docs $(VENV)/.lint: $(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

$(PLAIN)/.installed: pyproject.toml | $(PLAIN)/bin/python
	$(PLAIN)/bin/python -m pip install --quiet --editable . hypothesis pytest pytest-xdist
	touch $@

# options given as goals, as in `make demo -- --no-mcmc`
--%:
	@:
