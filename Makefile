# `make demo` and `make test` set up all they need in .venv; nothing but Python 3.11+, git and make is expected. Where a
# C++ compiler is found the native kernels are built too.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
OPTIMUM := .venv-optimum
SOURCES := $(shell find runtime export bench -type f -not -path '*/__pycache__/*' | LC_ALL=C sort)
KERNELS := $(sort $(wildcard kernels/pyproject.toml kernels/CMakeLists.txt kernels/guardpass_kernels/* kernels/src/* kernels/src/*/*))
# Strict editable mode links files one by one, so that mypy and pytest see plain packages; new files need a re-link.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --config-settings editable_mode=strict

CXX_SOURCES = $(wildcard $(foreach of,cpp h,$(addsuffix /*.$(of),kernels/src kernels/src/* kernels/native_tests)))
# A worker a core. What a test that others run beside would fail for has the machine to itself, in a second pass.
PYTEST := $(BIN)/pytest
PARALLEL := -n auto --dist worksteal

.PHONY: help demo setup check format quick test nightly test-all test-optimum sanitize chromium clean
help:            ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

demo: $(VENV)/.demo  ## Export the demo guard to int8 and judge a dozen sentences
	$(BIN)/guardpass demo

check: $(VENV)/.test  ## ruff, mypy --strict and clang-format: under a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CXX_SOURCES)

format: $(VENV)/.test  ## Apply ruff's fixes, ruff format and clang-format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_SOURCES)

quick: $(VENV)/.test  ## The tests without torch, llama.cpp, the server, and what is slow: under 90 seconds
	GUARDPASS_TESTS=quick $(PYTEST) -q $(PARALLEL) -m 'not (slow or serial or torch or llamacpp)' \
		--without torch --without llamacpp --without serve

test: setup      ## Everything: check, pytest, the tests of optimum, and the kernels' own under sanitizers
	$(MAKE) --no-print-directory check test-all test-optimum sanitize

nightly: export GUARDPASS_TESTS := nightly
nightly: test    ## The same, with every example tried: about an hour

test-all: $(VENV)/.test  ## pytest, all of it
	$(PYTEST) $(PARALLEL) -m 'not serial'
	$(PYTEST) -m serial

test-optimum: $(OPTIMUM)/.test  ## The tests of `export --via optimum`, which needs an older transformers
	$(OPTIMUM)/bin/pytest tests/export/test_optimum.py

# A finding of a sanitizer ends the tests, and with them make.
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

# Side by side, as one waits for downloads where another compiles.
setup:           ## The environments of all tests
	@$(MAKE) --no-print-directory -j 3 $(VENV)/.test $(OPTIMUM)/.test chromium

# Debian's, where this user may install it; else the tests of the server's page are left out, and pytest says so.
chromium:
	@for each in chromium chromium-browser google-chrome; do command -v $$each >/dev/null && exit; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo 'Installing Chromium, for the tests of the page.'; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends chromium >/dev/null && exit; \
	fi; \
	echo 'Found no Chromium, and could not install it: the tests of the page are left out.'

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

# Minutes of compiling, which go on while pip loads what is large. Without llama.cpp's vision, which nothing here uses.
$(VENV)/.llama: $(BIN)/python
	@echo 'Building llama-cpp-python, unless pip has it already.'
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(BIN)/pip install --quiet --disable-pip-version-check 'llama-cpp-python>=0.3.36'
	@touch $@

$(VENV)/.test: $(BIN)/python $(VENV)/.kernels $(VENV)/.llama pyproject.toml $(SOURCES)
	@echo 'Setting up the test environment: torch and transformers are large.'
	$(INSTALL) -e '.[cpu,export,bench,test]'
	@touch $@ $(VENV)/.demo

$(OPTIMUM)/.test: pyproject.toml $(SOURCES)
	@echo 'Setting up the environment of optimum-onnx.'
	test -x $(OPTIMUM)/bin/python || $(PYTHON) -m venv $(OPTIMUM)
	$(OPTIMUM)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	$(OPTIMUM)/bin/pip install --quiet --disable-pip-version-check '.[optimum]' pytest pytest-timeout hypothesis
	@touch $@
