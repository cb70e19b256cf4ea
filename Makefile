# Every command works from a fresh clone, in a path with spaces, as root or as an ordinary user.
SHELL := /bin/sh
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help up test check test-hosts test-lab test-kube faults bench bench-smoke docs lab clean

help: ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

.venv/ready: requirements.txt
	@sh tools/venv.sh requirements.txt .venv/ready

.venv/ready-dev: requirements-dev.txt
	@sh tools/venv.sh requirements-dev.txt .venv/ready-dev
	@touch .venv/ready

up: .venv/ready ## Run Fleet here with a simulated fleet of 3,000 machines; Ctrl-C ends it
	@exec $(PY) -m fleet.dev.up

test: .venv/ready-dev ## The whole suite that needs no root and no compiler
	$(PY) -m pytest -q -n 2 -m "not lab and not browser and not kube"
	$(PY) -m pytest -q -m browser tests/e2e

check: export FLEET_SECRET_KEY = check
check: export DATABASE_URL = postgres:///none
check: .venv/ready-dev ## Lint, types, import contracts, migrations
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	$(PY) -m mypy .
	.venv/bin/lint-imports
	$(PY) -W ignore manage.py makemigrations --check --dry-run

test-hosts: .venv/ready-dev ## Against real hosts made on this machine (root)
	$(PY) -m pytest -q -p no:randomly -m "lab and not kube" tests/lab

test-lab: .venv/ready-dev ## Against real hosts and real clusters of them (root, Go; builds Kubernetes the first time)
	$(PY) -m pytest -q -p no:randomly -m lab tests/lab

test-kube: .venv/ready-dev ## Against real control planes built from Go modules (minutes the first time)
	$(PY) -m pytest -q -p no:randomly -m "kube and not lab" tests

faults: .venv/ready-dev ## The fault matrix, printed as a table; some rows need root
	$(PY) -m tests.faults

bench: .venv/ready-dev ## Benchmarks at size M
	$(PY) -m benchmarks --size M

bench-smoke: .venv/ready-dev ## Benchmarks at size S: do they run, are their results right
	$(PY) -m benchmarks --size S --rounds 1

lab: .venv/ready-dev ## Fleet, a meta cluster, a business cluster in its pods and machines that joined it, on this machine (root)
	$(PY) -m lab clusters

docs: .venv/ready-dev ## The documentation as HTML in docs/_build
	.venv/bin/sphinx-build -W -q docs docs/_build

clean: ## End control planes that run beside Fleet; remove the virtual environment and this checkout's state
	@if [ -x $(PY) ]; then $(PY) -m fleet.dev.clean; fi
	rm -rf .venv .fleet
