# Everything a person types. `make setup` prepares .venv; every other target does so by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
METHOD ?= magface
CUDA_TORCH ?= 2.14.1
PLUGINS := $(sort $(dir $(wildcard plugins/*/pyproject.toml)))
EDITABLE := -e '.[dev]' $(patsubst %/,-e ./%,$(PLUGINS))
SOURCES := setup.py $(shell find csrc -type f 2>/dev/null)
GOLDENS := $(wildcard tests/golden/*/cases.json)
TEST_WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# DeepSpeed builds a small helper for CPU collectives at its first use; keep it beside the environment.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions

.PHONY: setup build test golden lint format demo cuda gpu mxnet-env soak clean system

setup: $(VENV)/.built

system:
	@command -v g++ >/dev/null || { echo "No C++ compiler. Install one: sudo apt-get install g++"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed. Install it: sudo apt-get install python3.11 python3.11-venv python3.11-dev"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing. Install it: sudo apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' || { echo "Python's headers are missing. Install them: sudo apt-get install python3-dev"; exit 1; }
	@echo '#include <cstdio>\n#include <jpeglib.h>' | g++ -E -x c++ - >/dev/null 2>&1 || echo "Note: no libjpeg-turbo headers, images are decoded by OpenCV (slower). Install them: sudo apt-get install libjpeg62-turbo-dev"

$(VENV)/.installed: constraints.txt pyproject.toml $(wildcard plugins/*/pyproject.toml) | system
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt pip setuptools wheel ninja pybind11 packaging numpy
	$(PY) -m pip install -q -c constraints.txt torch
	$(PY) -m pip install -q -c constraints.txt --no-build-isolation $(EDITABLE)
	@touch $@

$(VENV)/.built: $(VENV)/.installed $(SOURCES)
	$(PY) setup.py -q build_ext --inplace
	@touch $@

build: $(VENV)/.built

test: setup
	$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --durations 15 -m "not soak and not cuda"
	$(MAKE) golden

golden: setup
	$(PY) -m tests.golden tests/golden $(if $(FACEX_DATA),$(FACEX_DATA)/goldens/recordio $(FACEX_DATA)/goldens/verification) --quiet

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $(shell find csrc -type f -name '*.[ch]*')

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(shell find csrc -type f -name '*.[ch]*')

demo: setup
	$(VENV)/bin/facex demo --method $(METHOD)

soak: setup
	$(PY) -m pytest -m soak

# The CUDA extension in an environment of its own: compiles for sm_80 and sm_90 and checks that every op has a kernel.
cuda: .venv-cuda/.installed
	FACEX_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0" .venv-cuda/bin/python setup.py -q build --build-lib .venv-cuda/lib-facex
	PYTHONPATH=.venv-cuda/lib-facex .venv-cuda/bin/python -P tests/cuda_build_check.py

.venv-cuda/.installed: constraints.txt | system
	test -x .venv-cuda/bin/python || $(PYTHON) -m venv .venv-cuda
	grep -v '^torch==' constraints.txt > .venv-cuda/constraints.txt
	.venv-cuda/bin/python -m pip install -q -c .venv-cuda/constraints.txt setuptools wheel ninja pybind11 numpy torch==$(CUDA_TORCH)
	@touch $@

# For a machine with a GPU that already has PyTorch (no environment is made): CUDA tests, then every benchmark.
gpu:
	FACEX_CUDA=1 python3 setup.py -q build_ext --inplace
	python3 -m pytest -m cuda tests
	mkdir -p benchmarks/results
	for script in benchmarks/[a-z]*.py; do python3 $$script --json > benchmarks/results/$$(basename $$script .py).json || exit 1; done

# MXNet 1.9.1 needs NumPy < 1.24, so it has an environment of its own; the interop test starts its interpreter.
mxnet-env: .venv-mxnet/.installed
.venv-mxnet/.installed:
	$(PYTHON) -m venv .venv-mxnet
	.venv-mxnet/bin/python -m pip install -q mxnet==1.9.1 numpy==1.23.5
	@touch $@

clean:
	rm -rf build runs $(VENV) .venv-cuda .venv-mxnet facex/_C*.so
