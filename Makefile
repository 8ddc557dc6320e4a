# Everything runs in .venv, which the first target that needs it makes. `make` alone lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PY := .venv/bin/python
STAMP := .venv/.installed
# A file's tests share what they built, so one process runs them; in the order that tests/conftest.py gives them.
BY_FILE := --dist loadfile --no-loadscope-reorder

# A .venv that was copied along with the checkout still belongs to the old place.
ifneq "$(shell cat $(STAMP) 2>/dev/null)" "$(shell pwd -P)"
$(shell rm -f $(STAMP))
endif
# Without stored bytecode each process spends 13 s on its imports, with it 5 s. It lies in .venv and in ignored folders.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONHOME

.PHONY: help install test soak check demo docs bench bench-architectures bench-data notebooks lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-19s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv: the packages of requirements.lock, by hash, and this one (editable)
	@echo ".venv is up to date"

$(STAMP): requirements.lock pyproject.toml setup.py
	@PYTHON='$(PYTHON)' sh tools/install.sh

test: $(STAMP) ## run the tests on two processes (9 to 13 minutes); the long ones: make soak
	@echo "running the tests on two processes; the long ones are left to make soak"
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 $(BY_FILE) --durations=10 -m "not soak" $(ARGS)

soak: $(STAMP) ## kill and preempt many runs, and see that they end as undisturbed ones; sweeps, searches, cluster jobs (a quarter of an hour)
	@OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 $(BY_FILE) --durations=10 -m soak $(ARGS)

check: $(STAMP) ## format, lint and type check, then the fast tests
	@echo "ruff format" && $(PY) -m ruff format --check --quiet . || { echo "run: $(PY) -m ruff format ."; exit 1; }
	@echo "ruff check" && $(PY) -m ruff check --quiet .
	@echo "mypy" && $(PY) -m mypy --no-error-summary
	@echo "fast tests" && OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 $(BY_FILE) -m "not slow and not soak" $(ARGS)

demo: $(STAMP) ## train and compare on the digits benchmark: the shortest way to see what this is for
	@$(PY) -m mola_lightning.cli.demo $(ARGS)

docs: $(STAMP) ## build the documentation site into build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet $(ARGS) && echo "build/site/index.html"

bench: $(STAMP) ## measure speed and memory on this machine
	@OMP_WAIT_POLICY=passive $(PY) -m mola_lightning.cli.bench $(ARGS)

# torch would remark, on stderr, that a step frees memory which it had before the profiler looked
bench-architectures: $(STAMP) ## measure what every architecture and balancer costs beside hard sharing (below ten minutes)
	@OMP_WAIT_POLICY=passive TORCH_CPP_LOG_LEVEL=ERROR $(PY) -m mola_lightning.cli.bench_architectures $(ARGS)

bench-data: $(STAMP) ## measure how many images a second the loaders give on this machine
	@$(PY) -m mola_lightning.cli.bench_data $(ARGS)

notebooks: $(STAMP) ## write experiments/notebooks/*.ipynb from the scripts beside them
	@$(PY) tools/notebooks.py

lock: ## resolve the dependencies of pyproject.toml again into requirements.lock (ARGS=--upgrade for newer ones)
	@echo "resolving dependencies"
	@PYTHON='$(PYTHON)' sh tools/install.sh uv pip compile pyproject.toml --quiet --all-extras --generate-hashes --prerelease disallow \
		--no-header --universal --python-version 3.11 $(ARGS) -o requirements.lock

clean: ## remove caches and build products; keeps .venv and runs
	@rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . \( -path ./.venv -o -path ./.git -o -path ./.cache \) -prune -o \
		-type d \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
