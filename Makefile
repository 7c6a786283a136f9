# GNU make 3.81 (macOS) and later. Everything is set up in .venv, once, and again only when the lock files change.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test soak bench capacity check audit format lock clean
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
PYTHONS := python3.13 python3.12 python3.11 python3
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
UV_COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --python-version 3.11 --universal --generate-hashes \
	--custom-compile-command 'make lock' --group build

AUDIT := $(BIN)/uv tool run --quiet --from 'pip-audit>=2.10,<3' pip-audit --strict --disable-pip --require-hashes \
	--progress-spinner off --requirement deploy/requirements.txt

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s%s\n", $$1, $$2 }' Makefile

run: $(VENV)/.run-ready ## the demo: the service and all it needs, with a page to open
	@exec $(BIN)/realtime-service demo $(ARGS)

test: $(VENV)/.dev-ready ## all tests (ARGS="tests/domain -x" for some)
	@$(BIN)/pytest $(or $(ARGS),--numprocesses auto --dist loadscope --no-loadscope-reorder)

soak: $(VENV)/.dev-ready ## faults at random on three replicas, for SECONDS=600 (REALTIME_SEED=7 replays one)
	@REALTIME_SOAK_SECONDS=$(or $(SECONDS),600) $(BIN)/pytest -s -k any_faults tests/service/test_replicas.py

bench: $(VENV)/.dev-ready ## speed and memory beside nchan, RabbitMQ and others (ARGS="fanout --clients 500")
	@$(BIN)/python -m tests.bench $(ARGS)

capacity: $(VENV)/.dev-ready ## what so many clients need (ARGS="--clients 100000"; deploy/docs/capacity.md)
	@$(BIN)/python -m tests.bench.capacity $(ARGS)

check: $(VENV)/.dev-ready ## lint, security (ruff's S rules), format, types, import rules, versions that fit and are not known weak
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo 'Not formatted: run `make format`.'; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir $(VENV)/.import_linter_cache
	@$(BIN)/uv pip check --quiet --python $(BIN)/python
	@said=$$($(AUDIT) 2>&1) || case "$$said" in \
		*'known vulnerabilit'*) echo "$$said"; exit 1;; \
		*) echo 'Known weaknesses were not looked for: no answer from PyPI itself (make audit says why).';; \
	esac

audit: $(VENV)/.dev-ready ## known weaknesses of the locked versions; asks PyPI's advisory service
	@$(AUDIT)

format: $(VENV)/.dev-ready ## format the code
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

lock: $(VENV)/.dev-ready ## write deploy/requirements*.txt anew (ARGS=--upgrade for the newest versions)
	$(UV_COMPILE) $(ARGS) --extra demo --extra postgres --extra speed --output-file deploy/requirements.txt
	$(UV_COMPILE) $(ARGS) --all-extras --group dev --constraints deploy/requirements.txt \
		--output-file deploy/requirements-dev.txt

clean: ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run-ready: deploy/requirements.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@echo 'Installing what the service needs into $(VENV): a minute, and longer on a slow network …'
	@$(PIP) install --require-hashes --requirement deploy/requirements.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev-ready: deploy/requirements-dev.txt pyproject.toml | $(VENV)/pyvenv.cfg
	@echo 'Installing what the service and its tests need into $(VENV): some minutes …'
	@$(PIP) install --require-hashes --requirement deploy/requirements-dev.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Debian's python3 comes without venv's other half (ensurepip): that is its package python3.X-venv.
$(VENV)/pyvenv.cfg:
	@python=; for candidate in $(PYTHON) $(PYTHONS); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'Python 3.11 or later is needed, and was not found. Install it (Debian, Ubuntu: apt-get install python3'; \
		echo 'python3-venv; macOS: brew install python), or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3'; \
		exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		package=$$("$$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "$$python has no venv module: installing $$package with apt-get …"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
				apt-get install -y -qq --no-install-recommends "$$package" >/dev/null || exit 1; \
		else \
			echo "$$python has no venv module. Debian, Ubuntu: sudo apt-get install $$package"; \
			exit 1; \
		fi; \
	fi; \
	echo "Creating $(VENV) with $$("$$python" --version) …"; \
	"$$python" -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
