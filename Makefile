# What a developer types. Each target sets up what it needs (scripts/setup.sh) and is quiet about what is there.
# WORKERS=4 make test: that many processes; else one more than there are processors, since some are waiting always. PYTEST='-k undo -x' make test: more options for pytest.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

WORKERS ?= $(shell echo $$(($$(getconf _NPROCESSORS_ONLN) + 1)))
PYTEST ?=
BIN := .venv/bin
RUN_TESTS := $(BIN)/pytest -n $(WORKERS)

.PHONY: help demo test quick conformance check lint format docs hunt bench lock clean python servers

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: python ## a guided change on a small PostgreSQL made for it, taken back again
	@$(BIN)/backout demo

test: python servers ## all tests, on all database servers that can be had
	@$(RUN_TESTS) $(PYTEST)

quick: python ## in two minutes: units, and the cases on which rows get lost, on PostgreSQL 18 and SQLite
	@BACKOUT_TEST_SERVERS=pg18 $(RUN_TESTS) tests/unit tests/conformance/test_case*.py $(PYTEST)

conformance: python servers ## every behaviour that an engine promises, on each engine that can be had
	@$(RUN_TESTS) tests/conformance $(PYTEST)

check: lint docs test ## all that CI runs

lint: python
	@$(BIN)/ruff format --check --quiet . || { echo 'check: run make format'; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

format: python ## the code in its one form
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: python # the reference pages are generated: fail where they do not tell what the code is
	@if [ -e scripts/reference.py ]; then $(BIN)/python scripts/reference.py --check; fi

hunt: python servers ## long searches for what is lost: thousands of generated changes, captured and undone
	@HYPOTHESIS_PROFILE=hunt $(RUN_TESTS) -m hunt --timeout 0 $(PYTEST)

bench: python ## measurements for docs/performance.md, on a PostgreSQL made for it
	@if [ -e bench/__main__.py ]; then $(BIN)/python -m bench; else echo 'bench: there is no bench/ yet'; fi

lock: ## requirements/lock.txt anew; UPGRADE=1 takes newer versions
	@scripts/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## all that make has made
	@rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

python:
	@scripts/setup.sh python

servers:
	@scripts/setup.sh servers
