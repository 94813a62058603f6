# `make demo` and `make test` set up all they need in .venv; nothing but Python 3.11+, git and make is expected. Where a
# C++ compiler is found the native kernels are built too.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OPTIMUM := .venv-optimum
SOURCES := $(shell find runtime export bench -type f -not -path '*/__pycache__/*' | LC_ALL=C sort)
KERNELS := $(sort $(wildcard kernels/pyproject.toml kernels/CMakeLists.txt kernels/guardpass_kernels/* kernels/src/* kernels/src/*/*))
# Strict editable mode links files one by one, so that mypy and pytest see plain packages; new files need a re-link.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict

.PHONY: help demo test test-optimum sanitize clean
help:            ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.demo  ## Export the demo guard to int8 and judge a dozen sentences
	$(BIN)/guardpass demo

test: $(VENV)/.test  ## ruff, mypy --strict, pytest, and the kernels' own tests under sanitizers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest
	$(MAKE) --no-print-directory test-optimum
	$(MAKE) --no-print-directory sanitize

test-optimum: $(OPTIMUM)/.test  ## The tests of `export --via optimum`, which needs an older transformers
	$(OPTIMUM)/bin/pytest tests/test_optimum.py

# About three minutes on two cores. A finding of a sanitizer ends the tests, and with them make.
sanitize: $(VENV)/.test  ## kernels/native_tests under ASan with UBSan, and under TSan, where a C++ compiler has them
	@mkdir -p build
	@if ! command -v $(firstword $(CXX)) >/dev/null; then \
		echo 'Found no C++ compiler ($(CXX)): the native tests under sanitizers are left out.'; exit; \
	fi; \
	for each in address,undefined thread; do \
		if ! echo 'int main() {}' | $(CXX) -fsanitize=$$each -x c++ - -o build/sanitizes 2>/dev/null || ! build/sanitizes 2>/dev/null; then \
			echo "$(CXX) cannot make what runs with -fsanitize=$$each: the native tests under it are left out."; continue; \
		fi; \
		echo "Building and running kernels/native_tests with -fsanitize=$$each."; \
		CXX='$(CXX)' $(BIN)/cmake -S kernels -B build/$$each -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
			-DGUARDPASS_NATIVE_TESTS=ON -DGUARDPASS_SANITIZE=$$each >/dev/null && \
		$(BIN)/cmake --build build/$$each -- --quiet && build/$$each/native_tests || exit 1; \
	done

clean:           ## Remove the environment and build leftovers
	rm -rf $(VENV) $(OPTIMUM) build kernels/build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.kernels: $(BIN)/python $(KERNELS)
	@if command -v $(firstword $(CXX)) >/dev/null; then \
		echo 'Building guardpass-kernels with $(CXX).'; \
		$(BIN)/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps ./kernels; \
	else \
		echo 'Found no C++ compiler ($(CXX)): guardpass-kernels is left out, and with it engine native and its tests.'; \
	fi
	@touch $@

$(VENV)/.demo: $(BIN)/python $(VENV)/.kernels pyproject.toml $(SOURCES)
	$(INSTALL) -e '.[cpu,export,bench]'
	@touch $@

$(VENV)/.test: $(BIN)/python $(VENV)/.kernels pyproject.toml $(SOURCES)
	@echo 'Setting up the test environment: torch and transformers are large, and pip builds llama-cpp-python from source.'
	@echo 'This takes about ten minutes on two cores.'
	$(INSTALL) -e '.[cpu,export,bench,test]'
	@touch $@ $(VENV)/.demo

$(OPTIMUM)/.test: pyproject.toml $(SOURCES)
	@echo 'Setting up the environment of optimum-onnx.'
	test -x $(OPTIMUM)/bin/python || $(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(OPTIMUM)/bin/pip install --quiet --disable-pip-version-check '.[optimum]' pytest pytest-timeout hypothesis
	@touch $@
