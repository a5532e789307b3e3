# Everything is installed into $(VENV), nothing elsewhere. PYTHON=python3.12 picks another Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
TORCH := torch==2.13.0
ASAN := build/asan
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
ASAN_TESTS ?= tests
ROUNDS ?= 5000

CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL

CXX_SOURCES := $(shell find csrc -type f -name '*.h' -o -type f -name '*.cpp' -o -type f -name '*.cu')
CXX_TESTS := $(shell find tests -type f -name '*.cpp' -o -type f -name '*.cu')
BUILD_FILES := pyproject.toml $(shell find CMakeLists.txt csrc -type f -name CMakeLists.txt)
PACKAGES := $(shell find python/tilegrad -type f -name __init__.py)

.DEFAULT_GOAL := help
.PHONY: help demo test test-peers test-asan test-tsan bench build cuda lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.built ## build, train the small CNN on the digits in the package, show the result
	$(BIN)/tilegrad train

test: $(VENV)/.test ## build and run the tests that need light packages only (NumPy, Keras, JAX)
	$(BIN)/python -m pytest -q tests python/tilegrad

test-peers: $(VENV)/.test ## cross-checks against PyTorch, which you install yourself
	@$(BIN)/python -c 'import torch' 2>/dev/null || { \
	  echo 'PyTorch is not in $(VENV). Install it, for example: $(BIN)/pip install $(TORCH)'; \
	  echo '(https://pytorch.org/get-started/locally/ has the command for a small CPU-only build)'; \
	  exit 1; }
	$(BIN)/python -m pytest -q tests/peers

# Without the traced simulator, whose instrumentation is another sanitizer's.
ASAN_BACKENDS ?= reference,cpu:base,cpu:avx2,cpu:avx512,sim

# An instrumented module needs the sanitizers' libraries before all others, libstdc++ among them for
# the sake of exceptions. Captured at Python's level, a report that ends the process is still seen.
test-asan: $(ASAN)/.built ## the tests on modules built with AddressSanitizer and UBSan
	env -u PYTHONPATH LD_PRELOAD=$$(for name in libasan.so libubsan.so libstdc++.so.6; do \
	    $(CXX) -print-file-name=$$name; done | paste -sd:) \
	  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=8192 \
	  UBSAN_OPTIONS=print_stacktrace=1 TILEGRAD_TEST_BACKENDS=$(ASAN_BACKENDS) \
	  $(ASAN)/bin/python -m pytest -q --capture=sys -p no:cacheprovider $(ASAN_TESTS)

test-tsan: $(VENV)/.tools ## the thread pool under ThreadSanitizer, and its forks under AddressSanitizer
	$(BIN)/cmake -S tests/native -B build/native
	$(BIN)/cmake --build build/native
	TSAN_OPTIONS=halt_on_error=1 build/native/threads_tsan $(ROUNDS)
	ASAN_OPTIONS=detect_leaks=0 build/native/threads_asan $(ROUNDS)

bench: $(VENV)/.bench ## measure everything against its peers (an hour), write the tables
	$(BIN)/python benchmarks/run.py

build: $(VENV)/.tools ## compile what changed in C++, in seconds (the first time, everything)
	$(PIP) --no-build-isolation --editable .
	@touch $(VENV)/.built

CONFIGURE := -DSKBUILD_PROJECT_NAME=tilegrad -DSKBUILD_PROJECT_VERSION=0 \
  -DPython_EXECUTABLE=$$($(BIN)/python -c 'import sys; print(sys.executable)') \
  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)

CUDA_ARCHITECTURES ?= # 80 or native, say: fewer than the default, which takes three minutes
cuda: $(VENV)/.tools ## compile the CUDA kernels for all GPUs; needs nvcc, but no GPU
	$(BIN)/cmake -S . -B build/cuda $(CONFIGURE) -DTILEGRAD_CUDA=ON -DTILEGRAD_SIM=OFF \
	  -DTILEGRAD_WERROR=ON $(CUDA_ARCHITECTURES:%=-DCMAKE_CUDA_ARCHITECTURES=%)
	$(BIN)/cmake --build build/cuda --target _cuda
	PYTHONPATH=build/cuda/csrc/cuda $(BIN)/python -c 'import _cuda; print("CUDA:", _cuda.device_count())'
	$(BIN)/python scripts/ptxas_table

lint: $(VENV)/.dev ## check style: ruff, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES) $(CXX_TESTS)

format: $(VENV)/.dev ## put everything into that style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES) $(CXX_TESTS)

clean: ## remove the virtual environment and everything built
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

# Stamps say when a step was last done. The package is installed editable: Python sources are used
# where they lie, and only C++ sources, build files or a new Python package make it build again.
$(VENV)/.venv:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 10), "expected Python 3.10 or later"'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.built: $(VENV)/.venv $(BUILD_FILES) $(CXX_SOURCES) $(PACKAGES)
	$(PIP) --editable .
	@touch $@

# Without build isolation the build folder keeps its objects; the tools must then be in the venv.
$(VENV)/.tools: $(VENV)/.venv
	$(PIP) 'scikit-build-core>=0.10' 'pybind11>=2.13' cmake ninja
	@touch $@

$(VENV)/.test: $(VENV)/.built
	$(PIP) 'tilegrad[test]'
	@touch $@

# An environment of its own for the instrumented modules: it borrows the packages of $(VENV), but not
# the editable install there.
$(ASAN)/.venv: $(VENV)/.test $(VENV)/.tools
	$(BIN)/python -m venv --without-pip $(ASAN)
	$(BIN)/python -c '$(PURELIB)' >$$($(ASAN)/bin/python -c '$(PURELIB)')/packages.pth
	@touch $@

.PHONY: $(ASAN)/.built
$(ASAN)/.built: $(ASAN)/.venv
	$(BIN)/cmake -S . -B $(ASAN)/cmake $(CONFIGURE) -DTILEGRAD_SANITIZE=address,undefined >$(ASAN)/cmake.log
	$(BIN)/cmake --build $(ASAN)/cmake
	site=$$($(ASAN)/bin/python -c '$(PURELIB)') && rm -rf $$site/tilegrad && \
	  cp -R python/tilegrad $$site && rm -f $$site/tilegrad/*.so && \
	  $(BIN)/cmake --install $(ASAN)/cmake --prefix $$site >>$(ASAN)/cmake.log

$(VENV)/.bench: $(VENV)/.built
	$(PIP) 'tilegrad[bench]'
	@touch $@

$(VENV)/.dev: $(VENV)/.built
	$(PIP) 'tilegrad[dev]'
	@touch $@
