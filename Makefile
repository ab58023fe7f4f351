# What a newcomer needs: `make run`, `make test`. `make help` lists the rest.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := libs/common services/edge-proxy services/budget-enforcer services/usage-aggregator services/admin-api libs/bursar
EDITABLE := $(foreach package,$(filter-out libs/bursar,$(PACKAGES)),-e $(package)) -e "libs/bursar[server]"
MANIFESTS := $(foreach package,$(PACKAGES),$(package)/pyproject.toml)

# Most of the tests' time is waiting for engines, so two files run at once, in the order found, which begins with the
# longest. `make test TEST_WORKERS=` runs one after the other.
TEST_WORKERS ?= -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.venv/installed: constraints.txt $(MANIFESTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Bursar needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(EDITABLE)
	@touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@touch $@

.PHONY: venv
venv: .venv/installed ## Make the virtual environment with everything Bursar runs on

.PHONY: run
run: .venv/installed ## Start everything on this machine (ARGS="--port 8080 --home ~/.bursar")
	@exec $(BIN)/bursar up $(ARGS)

.PHONY: kafka
kafka: ## Fetch the Kafka jars for the tests (needs Maven), once, into .cache/kafka
	@if ls .cache/kafka/libs/kafka-server-4*.jar >/dev/null 2>&1; then :; \
	elif ! command -v mvn >/dev/null 2>&1; then echo "Maven is not here: tests with Kafka will be skipped (install maven and a JDK 17)"; \
	else mvn -q -B -f tests/engines/pom.xml dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/kafka/libs; fi

.PHONY: claude
claude: ## Fetch the Claude Code CLI for the tests (needs npm), once, into .cache/claude
	@if [ -x .cache/claude/node_modules/.bin/claude ] && cmp -s tests/engines/package-lock.json .cache/claude/package-lock.json; then :; \
	elif ! command -v npm >/dev/null 2>&1; then echo "npm is not here: tests with Claude Code will be skipped (install Node.js 18 or newer)"; \
	else mkdir -p .cache/claude && cp tests/engines/package.json tests/engines/package-lock.json .cache/claude/ \
	  && cd .cache/claude && npm ci --silent --no-fund --no-audit \
	  && node node_modules/@anthropic-ai/claude-code/install.cjs; fi # npm may be set to run no install scripts

.PHONY: lint
lint: .venv/installed-dev ## Style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: test
test: .venv/installed-dev kafka claude lint ## Everything: lint, types, import rules, unit, integration, e2e and fault tests
	$(BIN)/python -m pytest $(TEST_WORKERS) $(PYTEST_ARGS)

.PHONY: unit
unit: .venv/installed-dev ## Only the unit tests (seconds)
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

.PHONY: clean
clean: ## Remove the environment and caches of this checkout (never a home folder)
	rm -rf .venv .cache .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis

.PHONY: bench
bench: .venv/installed-dev ## Measure against the references, write bench/results/ and docs/figures.md (up to 12 minutes)
	$(BIN)/python bench/run.py $(BENCH_ARGS)
