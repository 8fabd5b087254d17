# The commands README names. Needs only Python 3.11 or later, git and make: uv is brought into .uv/ here.
PYTHON ?= python3
UV := .uv/bin/uv
VENV := .venv
RUN := $(VENV)/bin

.PHONY: setup demo test lint format bench docs clean

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.10"

$(VENV)/.ready: $(UV) pyproject.toml $(wildcard core/pyproject.toml cli/pyproject.toml plugins/*/pyproject.toml)
	$(UV) sync --quiet --python $(PYTHON) --all-packages --all-extras --no-extra headless --no-extra gpu --group dev --compile-bytecode
	touch $@

setup: $(VENV)/.ready  ## .venv with every distribution editable and the segx command in it

demo: setup  ## draws images, predicts, trains, measures, exports; prints where everything is
	$(RUN)/python scripts/demo.py

test: setup  ## all tests, on two processes
	$(RUN)/python -m pytest -q -n 2 --dist worksteal --durations=25

lint: setup  ## style, types, layers
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: setup  ## what of the documentation is made from the code
	$(RUN)/python scripts/generate_known_plugins.py
	$(RUN)/python scripts/generate_hooks_reference.py
	$(RUN)/python scripts/generate_docs.py
	$(RUN)/python scripts/generate_arguments.py

bench: setup  ## start-up and masks, beside the incumbent in SEGX_BENCH_PEER; see benchmarks/README.md for the others
	$(RUN)/python benchmarks/bench_cli.py
	$(RUN)/python benchmarks/bench_masks.py

clean:
	rm -rf .venv .uv uv.lock .mypy_cache .ruff_cache .pytest_cache
