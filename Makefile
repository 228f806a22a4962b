# make demo    a sweep on this machine, from nothing            make bench       timings, side by side
# make test    linters, types, tests (the slow ones apart)      make bench-gpu   the same on a GPU
# make test-slow                                                make check       linters and types alone
# make chaos   60 random faults over small sweeps, and whether anything differs from undisturbed ones
PYTHON ?= python3.11
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: setup abn demo check test test-slow chaos bench bench-gpu clean

demo: $(READY)
	$(PY) -m sweeps run digits --name demo

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@$(MAKE) --no-print-directory abn
	@touch $(READY)

# The in-place activated batch norm is an accelerator, not a need: a pure PyTorch layer with the same parameters and
# results takes its place. Its source package compiles CUDA kernels beside a CUDA build of torch and looks for a
# libcudart.so, which the CUDA wheels only bring under its versioned name.
ABN_LOG := $(VENV)/inplace-abn.log
CUDART = $(abspath $(firstword $(wildcard $(VENV)/lib/python3.*/site-packages/nvidia/cu*/lib/libcudart.so.*)))
abn:
	@echo "trying the optional in-place ABN (a few minutes at most; log in $(ABN_LOG)) ..."
	@mkdir -p $(VENV)/cudart && if [ -n "$(CUDART)" ]; then ln -sf "$(CUDART)" $(VENV)/cudart/libcudart.so; fi
	@if $(VENV)/bin/pip install setuptools setuptools_scm wheel ninja > $(ABN_LOG) 2>&1 && \
	  PATH="$(abspath $(VENV))/bin:$$PATH" LIBRARY_PATH="$(abspath $(VENV))/cudart:$$LIBRARY_PATH" \
	  TORCH_CUDA_ARCH_LIST="$${TORCH_CUDA_ARCH_LIST:-8.0;9.0}" \
	  timeout 600 $(VENV)/bin/pip install --no-build-isolation inplace-abn==1.1.0 >> $(ABN_LOG) 2>&1; \
	then echo "in-place ABN: installed"; else echo "in-place ABN: not built; the pure PyTorch layer is used"; fi

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

test: check
	$(PY) -m pytest -q -n logical --maxprocesses 8 -m "not slow"

test-slow: $(READY)
	$(PY) -m pytest -q -n 2 --dist loadfile -m slow --durations=25

CHAOS ?= --faults 60 --seed 0
chaos: $(READY)
	$(PY) -m tests.chaos $(CHAOS)

bench: $(READY)
	$(PY) -m tests.benchmarks.throughput --device cpu
	$(PY) -m tests.benchmarks.data_path
	$(PY) -m tests.benchmarks.detector_memory
	$(PY) -m tests.benchmarks.plan_accuracy
	$(PY) -m tests.benchmarks.sharing
	$(PY) -m tests.benchmarks.fingerprint

bench-gpu:
	$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m tests.benchmarks.throughput --device cuda

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
