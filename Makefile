# `make demo` and `make test` set up all they need: a virtual environment, the build, the package.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A CPU build of torch, where the package index offers one, spares gigabytes of CUDA libraries.
TORCH ?= torch>=2.11,<2.14
DOCS := 'mkdocs-material>=9.5,<10' 'mkdocstrings-python>=1.12'
SOURCES := setup.py CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint docs bench sanitize clean

demo: $(VENV)/.installed
	$(BIN)/python -m vflow.demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(shell find csrc -type f)

# The site, into site/: a broken link or an unknown name fails. Needs neither torch nor the libraries.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/ops.py
	$(BIN)/python bench/throughput.py

# The native library's tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under valgrind.
sanitize: $(VENV)/.installed-dev
	PYTHON=$(BIN)/python scripts/sanitize.sh

clean:
	rm -rf $(VENV) build site vflow/_lib *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet $(DOCS)
	touch $@

$(VENV)/.torch: | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# All that .installed is, so that the library is built once.
$(VENV)/.installed-dev: $(VENV)/.torch $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(VENV)/.installed $@
