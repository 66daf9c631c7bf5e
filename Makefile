# Every target starts from a bare checkout: Python >= 3.11, a C++17 compiler and make.
#
#   make demo       check, benchmark and train in about two minutes after the build
#   make test       the test suite (no deep-learning framework)
#   make test-cuda  the CUDA kernels: compiled for every architecture, run on the emulator
#   make test-all   with the comparisons against frameworks (extra `oracles`)
#   make lint       ruff, mypy, clang-format
#   make docs       the pages of docs/ as HTML, into docs/_build
#   make asan       the lifetime storm under AddressSanitizer and UndefinedBehaviorSanitizer
#   make bench      every comparison on this CPU with its rivals, about twenty minutes
#   make figures    the longer figures: whole nets against float64, resume, start-up

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
SOURCES := CMakeLists.txt pyproject.toml setup.py $(wildcard csrc/*/*) $(wildcard kernels/*.py) \
           $(wildcard kernels/*.h) $(wildcard kernels/cpu/*.py) $(wildcard kernels/cuda/*)

.PHONY: venv demo test test-cuda test-all lint docs asan bench figures clean
venv: $(STAMPS)/dev

$(STAMPS)/venv:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or later is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	mkdir -p $(STAMPS) && touch $@

# Editable, in this environment, so that a changed kernel is rebuilt by make alone.
$(STAMPS)/dev: $(STAMPS)/venv $(SOURCES)
	$(BIN)/python -m pip install --quiet "scikit-build-core[setuptools]>=1.1" "setuptools>=77" \
	    "pybind11>=3.0" "numba>=0.65,<0.69" "numpy>=2.0" "cmake>=3.20" ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install --quiet --no-build-isolation -e ".[dev]"
	touch $@

# A CPU build of torch first: a plain `torch` may pull gigabytes of CUDA packages.
$(STAMPS)/oracles: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(JAX) $(ONNX)
	touch $@
TORCH ?= torch==2.13.0
JAX ?= "jax>=0.6,<0.12"
ONNX ?= "onnx>=1.17"

demo: $(STAMPS)/dev
	$(BIN)/pyinception demo

test: $(STAMPS)/dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not oracles and not cuda"
	@echo "Left out: comparisons with other frameworks ('make test-all'), CUDA kernels ('make test-cuda')."

test-cuda: $(STAMPS)/dev
	$(BIN)/python tests/translate_kernels.py
	$(BIN)/python -m pytest -q -n 2 -m cuda

test-all: $(STAMPS)/oracles
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m oracles

lint: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(wildcard csrc/*/*.cpp csrc/*/*.h kernels/*.h kernels/cuda/*.cu* kernels/cuda/*.h \
	    pyinception/interop/*.cpp benchmarks/*.cu examples/*.cu)

docs: $(STAMPS)/dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

asan: $(STAMPS)/dev
	.ci/asan

$(STAMPS)/rivals: $(STAMPS)/dev
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet "openvino>=2025.0" "onnxruntime>=1.20" "threadpoolctl>=3" "matplotlib>=3.9" $(ONNX)
	touch $@

bench: $(STAMPS)/rivals
	$(BIN)/python benchmarks/everything.py

figures: $(STAMPS)/oracles
	$(BIN)/python benchmarks/figures.py

clean:
	rm -rf build dist docs/_build *.egg-info $(VENV)
