# `make demo`, `make test`, `make check` and `make bench` do all set-up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test check bench generate lock setup prepare clean

setup: $(STAMP)

NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gatewatch needs Python 3.11 or newer; name one: make PYTHON=python3.12")'

# An interrupted set-up, or a .venv of an older Python, is made anew.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) $(NEW_ENOUGH)
	@if ! { $(BIN)/python $(NEW_ENOUGH) && $(BIN)/python -m pip --version; } >/dev/null 2>&1; then \
		echo "$(PYTHON) -m venv --clear $(VENV)"; \
		$(PYTHON) -m venv --clear $(VENV) || { \
			echo "no virtual environment: on Debian and Ubuntu install the package python3-venv (or python3.X-venv)" >&2; \
			exit 1; }; \
	fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

# What the first start of a broker and of a worker on a machine do: some 20 seconds that are no test's.
prepare: $(STAMP)
	$(BIN)/python -m streams.broker --prepare
	$(BIN)/python -m signals.decoder
	$(BIN)/python -c 'from sinks import native; native.prepare()'

demo: prepare
	$(BIN)/gatewatch demo

test: prepare
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest -m own_engine

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

bench: prepare
	$(BIN)/python -m benchmarks

# Everything that is generated from code: JSON Schema, the event page, the settings page.
generate: $(STAMP)
	$(BIN)/python -m docs.generate

# Newest versions that pyproject.toml allows, with hashes and without a registry's name; then the part
# of them that the image installs.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra dev pyproject.toml -o requirements.lock
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --extra pipeline --constraint requirements.lock pyproject.toml -o requirements.pipeline.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist
