# Each target creates .venv and installs into it what it needs, when that is missing. Needed beforehand: Python 3.10 or
# newer with pip and venv, and make. From another folder: make -C path/to/this/folder test
#
#   make demo                     draw a data set; train, sparsify, prune and fine-tune a detector on it; print the table
#   make quick                    the tests that take little time: none that trains, exports or starts a process
#   make changed                  the tests of what git says has changed; SINCE=main: of what differs from there
#   make test                     all tests
#   make nightly                  all tests, with more networks, and 200 random ones where there are six by day
#   make check                    lint, types, all tests
#   make docs                     the documentation as a site, in site/
#   make bench                    the timed sections of docs/BENCHMARKS.md, in about eight minutes; ARGS=Training: only this
#   make test PYTHON=python3.12   another Python for a new .venv
#   make test VENV=/some/env      an environment of your own, taken as it is: nothing is installed into it
#   make test ARGS="-k nms -x"    further arguments for the command

# Starts from small weights that were trained on other pictures of the same painter: see data/weights/README.md
DEMO := --weights data/weights/drawn_faces.pt --imgsz 192 --batch-size 8 \
        --base-epochs 8 --sparse-epochs 10 --finetune-epochs 6

PYTHON ?= python3
ARGS ?=
SINCE ?= HEAD

ifeq ($(origin VENV),undefined)
VENV := .venv
RUNTIME := $(VENV)/.runtime-installed
TOOLS := $(VENV)/.tools-installed
endif
# Commands get the interpreter by an absolute path, because some of them start further processes elsewhere.
RUN := "$(abspath $(VENV))/bin/python"
PYTEST := $(RUN) -m pytest -q -n auto --dist loadfile

.PHONY: help demo quick changed test nightly check bench docs lint types imports format clean

help:
	@sed -n '4,14s/^# *//p' Makefile

demo: $(RUNTIME)
	$(RUN) data/scripts/draw_mask_demo.py
	$(RUN) prune_tools/pipeline.py --name demo --data data/mask_demo.yaml $(DEMO) $(ARGS)

quick: $(TOOLS)
	$(PYTEST) -m "not slow" $(ARGS)

changed: $(TOOLS)
	files=$$($(RUN) -m tests.changed $(SINCE)) && $(PYTEST) $$files $(ARGS)

test: $(TOOLS)
	$(PYTEST) $(ARGS)

nightly: $(TOOLS)
	HYPOTHESIS_PROFILE=nightly $(PYTEST) $(ARGS)

check: lint types test

bench: $(RUNTIME)
	$(RUN) -m benchmarks $(ARGS)

docs: $(TOOLS)
	$(RUN) -m mkdocs build --strict

lint: $(TOOLS)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest -q tests/test_limits_of_style.py

types: $(TOOLS)
	$(RUN) -m mypy

imports: $(TOOLS)
	$(RUN) -m pytest -q tests/test_import_rule.py

format: $(TOOLS)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Leaves runs/ alone: what training took hours to make is yours to delete.
clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis datasets/mask_demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.runtime-installed: requirements.txt | .venv/.python
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

.venv/.tools-installed: requirements.txt requirements-dev.txt | .venv/.python
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	touch .venv/.runtime-installed $@
