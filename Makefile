# The stack's commands. `make` alone prints them.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
STACK := $(BIN)/python -m stack
WORKSHOP := $(BIN)/python -m workshop
WRITABLE := [ -w . ] || { echo "This user may not write to $(CURDIR)" >&2; exit 1; }
COG := $(BIN)/cog --verbosity=1 -I docs -I . -p "import broker_tables; from excerpts import python, statement, yaml_block"
PACKAGES := $(wildcard */pyproject.toml */*/pyproject.toml)
PAGES := docs/*.md docs/backends/*.md kubernetes/components/prometheus/rules.yaml kubernetes/components/operator/collector.yaml

.DEFAULT_GOAL := help
.PHONY: help up down ps logs verify trace watch doctor workshop check solution new-service dist sbom test test-quick test-long \
	test-interop test-brokers test-kubernetes test-matrix bench lint format lock docs

# A group is a line "##@ its name"; 24 lines of 80 columns hold all of it.
help:
	@awk -F ':.*## ' '/^##@ / {group = substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "%-8s make %-12s %s\n", group, $$1, $$2; group = ""}' $(MAKEFILE_LIST)

# Whatever Python this shell has, an environment that works keeps its own.
NEW_VENV = { $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or newer is needed; PYTHON=... names another one" >&2; exit 1; }; $(PYTHON) -m venv --clear $(VENV); }

# What is installed is what the lock files say, by hash; our own packages are linked, not copied. Nothing is taken out
# again, since a stack may run from here. Of two at once the second waits, and finds that all is there.
$(VENV)/ready: requirements/run.txt requirements/bootstrap.txt $(PACKAGES)
	@$(WRITABLE)
	@set -e; exec 9<.; $(PYTHON) requirements/alone.py; \
	if [ -e $@ ] && [ -z "$$(find $^ -newer $@)" ]; then exit; fi; \
	echo "Setting up the Python environment in $(VENV) ..."; \
	$(BIN)/python -c 'import pip' 2>/dev/null || $(NEW_VENV); \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt; \
	$(INSTALL) --compile-bytecode --require-hashes -r requirements/run.txt; \
	$(INSTALL) --no-build-isolation $(patsubst %/pyproject.toml,--editable ./%,$(PACKAGES)); \
	touch $@

# Running needs no test runner, linter or browser.
$(VENV)/dev: $(VENV)/ready requirements/dev.txt
	@$(WRITABLE)
	@echo "Adding what tests and linters need to $(VENV) ..."
	@$(INSTALL) --compile-bytecode --require-hashes -r requirements/dev.txt
	@touch $@

##@ run
up: $(VENV)/ready ## Start the stack; RUNTIME=docker, local, kubernetes
	@$(STACK) up

down: $(VENV)/ready ## Stop the stack (PART=consumer for one part)
	@$(STACK) down $(PART)

ps: $(VENV)/ready ## Show the state of each part
	@$(STACK) ps

# A terminal may have set LINES, to its height.
logs: $(VENV)/ready ## Show the logs (PART= LINES= FOLLOW=1 TRACE=id)
	@$(STACK) logs $(PART) $(if $(TRACE),--trace "$$TRACE") $(if $(FOLLOW),--follow) \
		$(if $(filter command,$(origin LINES)),--lines "$$LINES")

##@ look
verify: $(VENV)/ready ## Send one reading, check its trace (BACKEND=zipkin)
	@$(STACK) verify $(BACKEND)

trace: $(VENV)/ready ## Show the last reading's trace (ID=... for another)
	@$(STACK) trace $(if $(ID),"$$ID")

watch: $(VENV)/ready ## Show each new trace as it arrives, until Ctrl-C
	@$(STACK) watch

doctor: $(VENV)/ready ## Look for the usual faults; say how to fix them
	@$(STACK) doctor

##@ learn
workshop: $(VENV)/ready ## Do the exercises: checks, hints, progress
	@$(WORKSHOP) watch

check: $(VENV)/ready ## Say what an exercise still lacks (EXERCISE=3)
	@$(WORKSHOP) check "$(EXERCISE)"

solution: $(VENV)/ready ## Do an exercise (EXERCISE=3; UNDO=1 takes it back)
	@$(WORKSHOP) solution "$(EXERCISE)" $(if $(UNDO),--undo)

new-service: $(VENV)/ready ## Make a traced service (NAME=alerter; OUTPUT=mqtt)
	@$(BIN)/python -m new_service "$(NAME)" $(if $(OUTPUT),--output="$(OUTPUT)") $(if $(TOPIC_FILTER),--topic-filter="$(TOPIC_FILTER)") \
		$(if $(URL),--url="$(URL)") $(if $(OUTPUT_TOPIC),--output-topic="$(OUTPUT_TOPIC)")

##@ develop
dist: $(VENV)/ready ## Build the wheels that services elsewhere need
	@$(WRITABLE)
	@rm -f dist/*.whl
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist \
		./packages/opentelemetry-instrumentation-paho-mqtt ./packages/mqtt-delivery
	@ls dist/*.whl

sbom: $(VENV)/dev ## List what images and programs hold (CycloneDX)
	@$(BIN)/python tests/prepare.py
	@$(BIN)/python requirements/sbom dist/sbom

# Two for a core: half of a test is waiting. What measures comes last, by itself. With PYTEST_ARGS either may be empty.
BESIDE := $(BIN)/pytest -n $(shell echo $$((2 * $$(nproc))))
ALONE := $(BIN)/pytest
OR_NONE := $(if $(PYTEST_ARGS),|| [ $$? = 5 ])
COVERAGE := $(if $(PYTEST_ARGS),,--cov)

test: $(VENV)/dev ## Run the tests, with all they need (PYTEST_ARGS=...)
	@$(BIN)/python tests/prepare.py
	@$(BESIDE) -m "not alone and not long and not interop and not brokers and not kubernetes" $(COVERAGE:--cov=--cov --cov-report= --cov-fail-under=0) $(PYTEST_ARGS) $(OR_NONE)
	@$(ALONE) -m "alone and not long" $(COVERAGE:--cov=--cov --cov-append) $(PYTEST_ARGS) $(OR_NONE)

test-quick: $(VENV)/dev ## Run the tests that need no stack, in about a minute
	@$(BIN)/python tests/prepare.py
	@$(BESIDE) -m "not stack and not alone and not long and not interop and not brokers and not kubernetes" $(PYTEST_ARGS)

test-long: $(VENV)/dev ## Run the long tests: real-life outages, and a soak
	@$(BIN)/python tests/prepare.py
	@$(BESIDE) -m "long and not alone" $(PYTEST_ARGS) $(OR_NONE)
	@$(ALONE) -m "long and alone" $(PYTEST_ARGS) $(OR_NONE)

test-interop: $(VENV)/dev ## Trace through clients in JavaScript, Java, Go, Rust
	@$(BIN)/python tests/prepare.py
	@$(ALONE) tests/test_interop.py $(PYTEST_ARGS)

test-brokers: $(VENV)/dev ## Run our services with HiveMQ, RabbitMQ and others
	@$(BIN)/python tests/prepare.py
	@$(ALONE) tests/test_brokers.py tests/test_broker_cluster.py -o junit_family=xunit1 --junitxml=dist/brokers.xml $(PYTEST_ARGS); code=$$?; \
		PYTHONPATH=tests $(BIN)/python -m brokers.results dist/brokers.xml && exit $$code

# In the cluster of the current context, in a namespace of its own.
test-kubernetes: $(VENV)/dev
	@$(ALONE) -m kubernetes tests/test_kubernetes.py $(PYTEST_ARGS)

test-matrix: $(VENV)/dev ## Test the instrumentation on each Python and paho
	@$(BIN)/python packages/opentelemetry-instrumentation-paho-mqtt/tests/matrix.py

bench: $(VENV)/dev ## Measure the stack (ONLY=consumer for one part)
	@$(STACK) prepare
	@PYTHONPATH=tests:.:packages/mqtt-delivery/tests:packages/opentelemetry-instrumentation-paho-mqtt/benchmarks $(BIN)/python -m benchmarks $(ONLY)

lint: $(VENV)/dev ## Check format, style, types, locks and docs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(BIN)/python requirements/compile.py --check
	@$(MAKE) --no-print-directory docs CHECK=1

format: $(VENV)/dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/ready ## Update the lock files
	@$(BIN)/python requirements/compile.py --upgrade
	@$(BIN)/python stack/programs/lock.py

docs: $(VENV)/dev ## Put current code into docs/ (PICTURES=1: pictures)
	@$(COG) $(if $(CHECK),--check --check-fail-msg='run `make docs`',-r) $(PAGES)
ifdef PICTURES
	@$(BIN)/python docs/screenshots.py && $(BIN)/python docs/recording.py && $(BIN)/python docs/service_map.py && $(BIN)/python docs/dashboard.py
	@dot -Tsvg -o docs/pictures/architecture.svg docs/pictures/architecture.dot
endif
