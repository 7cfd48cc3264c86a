# The stack's commands. `make` alone prints them.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STACK := $(BIN)/python -m stack
COG := $(BIN)/cog --verbosity=1 -I docs -p "from excerpts import python, statement, yaml_block"
PAGES := docs/*.md docs/backends/*.md

.DEFAULT_GOAL := help
.PHONY: help up down ps logs verify trace watch doctor check solution new-service dist test test-matrix bench lint \
	format lock docs screenshots

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# What is installed is what the lock files say, by hash; our own packages are linked, not copied.
$(VENV)/ready: requirements/dev.txt requirements/bootstrap.txt $(wildcard */pyproject.toml)
	@echo "Setting up the Python environment in $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; PYTHON=... names another one"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(patsubst %/pyproject.toml,--editable ./%,$(wildcard */pyproject.toml))
	@touch $@

up: $(VENV)/ready ## Start the stack; returns when every part is healthy (RUNTIME=docker or local)
	@$(STACK) up

down: $(VENV)/ready ## Stop the stack; nothing is left running (PART=consumer stops one part)
	@$(STACK) down $(PART)

ps: $(VENV)/ready ## Show the state of each part
	@$(STACK) ps

logs: $(VENV)/ready ## Show the logs (PART=consumer for one part)
	@$(STACK) logs $(PART)

verify: $(VENV)/ready ## Send one reading and check its trace in the backend (BACKEND=zipkin for another one)
	@$(STACK) verify $(BACKEND)

trace: $(VENV)/ready ## Show the trace of the last reading (ID=... for a trace id or message id)
	@$(STACK) trace $(if $(ID),"$$ID")

watch: $(VENV)/ready ## Show each new trace as it arrives, until Ctrl-C
	@$(STACK) watch

doctor: $(VENV)/ready ## Look for what is usually wrong; says how to mend it
	@$(STACK) doctor

check: $(VENV)/ready ## Say what is still missing in an exercise of the workshop (EXERCISE=3)
	@$(STACK) check "$(EXERCISE)"

solution: $(VENV)/ready ## Do an exercise of the workshop (EXERCISE=3; UNDO=1 takes it back)
	@$(STACK) solution "$(EXERCISE)" $(if $(UNDO),--undo)

new-service: $(VENV)/ready ## Make a service that is traced (NAME=alerter; OUTPUT=http or mqtt, TOPIC_FILTER, URL, OUTPUT_TOPIC)
	@$(STACK) new-service "$(NAME)" $(if $(OUTPUT),--output="$(OUTPUT)") $(if $(TOPIC_FILTER),--topic-filter="$(TOPIC_FILTER)") \
		$(if $(URL),--url="$(URL)") $(if $(OUTPUT_TOPIC),--output-topic="$(OUTPUT_TOPIC)")

dist: $(VENV)/ready ## Build the wheels that services elsewhere need, into dist/
	@rm -f dist/*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist \
		./opentelemetry-instrumentation-paho-mqtt ./mqtt-delivery
	@ls dist/*.whl

test: $(VENV)/ready ## Run every test, setting up all that they need
	@$(STACK) prepare --for-tests
	@$(BIN)/pytest --cov $(PYTEST_ARGS)

test-matrix: $(VENV)/ready ## Test the instrumentation on every Python and paho-mqtt that it supports
	@$(BIN)/python opentelemetry-instrumentation-paho-mqtt/tests/matrix.py

bench: $(VENV)/ready ## Measure the stack against its limits, in a quarter of an hour (ONLY=consumer for one part)
	@$(STACK) prepare
	@PYTHONPATH=tests:.:mqtt-delivery/tests:opentelemetry-instrumentation-paho-mqtt/benchmarks $(BIN)/python -m benchmarks $(ONLY)

lint: $(VENV)/ready ## Check format, style, types, and that the lock files and the docs are current
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/python requirements/compile.py --check
	@$(MAKE) --no-print-directory docs CHECK=1

format: $(VENV)/ready ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/ready ## Update the lock files
	@$(BIN)/python requirements/compile.py --upgrade

docs: $(VENV)/ready ## Put the current code into the pages of docs/ (CHECK=1: say whether it is there)
	@$(COG) $(if $(CHECK),--check --check-fail-msg='run `make docs`',-r) $(PAGES)

screenshots: $(VENV)/ready ## Take the pictures of the docs from the running stack
	@$(BIN)/python docs/screenshots.py
