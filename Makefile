# `make demo` and `make test` set up all they need: a virtual environment, the build, the package.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The same folder as make wants it in the name of a target.
ENV := $(subst $() ,\ ,$(VENV))
# A CPU build of torch, where the package index offers one, spares gigabytes of CUDA libraries.
TORCH ?= torch>=2.11,<2.14
DOCS := 'mkdocs-material>=9.5,<10' 'mkdocstrings-python>=1.12'
NOTEBOOKS := 'nbclient>=0.10' 'ipykernel>=6.29'
SOURCES := setup.py CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint docs links notebooks bench sanitize clean environment

demo: $(ENV)/.installed
	"$(BIN)/python" -m vflow.demo

test: $(ENV)/.installed-dev
	"$(BIN)/python" -m pytest -n auto --maxprocesses 8 --dist worksteal

lint: $(ENV)/.installed-dev
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/clang-format" --dry-run -Werror $(shell find csrc -type f)

# The site, into site/: a broken link or an unknown name fails. Needs neither torch nor the libraries.
docs: $(ENV)/.docs
	NO_MKDOCS_2_WARNING=1 "$(BIN)/mkdocs" build --strict --quiet

# The site, every relative link and anchor, and the code of README and docs.
links: docs $(ENV)/.installed-dev
	"$(BIN)/python" -m pytest -n 0 tests/test_docs.py

# The tutorials, run from end to end and written back with what they show.
notebooks: $(ENV)/.notebooks
	"$(BIN)/python" scripts/notebooks.py

bench: $(ENV)/.installed-dev
	"$(BIN)/python" bench/ops.py
	"$(BIN)/python" bench/throughput.py

# The native library's tests under AddressSanitizer and UndefinedBehaviorSanitizer, then under valgrind.
sanitize: $(ENV)/.installed-dev
	PYTHON="$(BIN)/python" scripts/sanitize.sh

clean:
	rm -rf "$(VENV)" build site vflow/_lib *.egg-info

environment:
	@"$(PYTHON)" scripts/check_environment.py $(if $(filter file,$(origin PYTHON)),,--same) "$(VENV)"

$(ENV)/.docs: pyproject.toml | environment
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet $(DOCS)
	touch "$@"

$(ENV)/.notebooks: $(ENV)/.installed-dev
	"$(BIN)/python" -m pip install --quiet $(NOTEBOOKS)
	touch "$@"

# Making an environment again completes one whose making was interrupted.
$(ENV)/.torch: | environment
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	@"$(BIN)/python" -m pip --version > /dev/null || { echo "vflow: error: $(VENV) is broken: remove it" >&2; exit 1; }
	"$(BIN)/python" -m pip install --quiet '$(TORCH)'
	touch "$@"

$(ENV)/.installed: $(ENV)/.torch $(SOURCES)
	"$(BIN)/python" -m pip install --quiet --editable '.[cli,demo]'
	touch "$@"

# All that .installed is, and what developing needs.
$(ENV)/.installed-dev: $(ENV)/.torch $(SOURCES)
	"$(BIN)/python" -m pip install --quiet --editable '.[dev]'
	touch "$(VENV)/.installed" "$@"
