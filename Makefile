# Every target can be run again and again. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-ansible stop test bench lint docs clean hosts-up hosts-down hosts-shell test-hosts

export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.collections
export PATH := $(CURDIR)/.venv/bin:$(PATH)
ONLY ?=
TESTS ?=
N ?= 3
HOST ?= h1
LABS = $(CURDIR)/.venv/bin/python -m tests.hosts.lab

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup: ## Install what is missing: Debian packages, .venv by the lock, the collection link
	@scripts/setup

demo: setup ## Run a manager and an agent on this machine, and three virtual machines from a document
	@scripts/demo

demo-ansible: setup ## The same virtual machines by Ansible alone, without a manager
	@scripts/demo ansible

stop: ## End what the demo started
	@scripts/demo stop

test: setup lint ## Lint, then all tests (TESTS="tests/unit -k name" runs some)
	@scripts/local-server up
	@trap 'scripts/local-server down' EXIT; .venv/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

test-hosts: setup ## Tests on whole Debian hosts, roles too; as root (TESTS="tests/hosts/test_power.py" runs some)
	@scripts/test-hosts $(TESTS)

hosts-up: setup ## Boot N test hosts, h1, h2... (N=3; LAB=name for another lab)
	@$(LABS) up $(N)

hosts-down: setup ## Remove the test hosts
	@$(LABS) down

hosts-shell: setup ## Log in to a test host (HOST=h1)
	@$(LABS) shell $(HOST)

bench: setup ## Measure against the peers (ONLY=define,unchanged for some)
	@scripts/bench-peers
	@scripts/local-server up
	@trap 'scripts/local-server down' EXIT; .venv/bin/python -m tests.bench $(if $(ONLY),--only $(ONLY))

lint: setup ## ruff, mypy, ansible-test sanity, ansible-lint
	@scripts/lint

docs: setup ## Write the reference and the modules' documentation from the tables
	.venv/bin/python scripts/generate_reference.py

clean: ## Remove what setup and the tools made in this folder (not what the demo made: make stop)
	rm -rf .venv .collections .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .ansible build dist tests/output
	find . -path ./.git -prune -o \( -name __pycache__ -o -name '*.egg-info' \) -type d -prune -exec rm -rf {} +
