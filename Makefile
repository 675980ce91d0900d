# Each target does all its own set-up. `make help` lists them.

.DEFAULT_GOAL := help
.PHONY: help setup setup-run setup-demo demo test lint bench install uninstall clean
SHELL := /bin/bash

# Debian leaves the sbin directories out of a user's PATH; nft and ip live there.
export PATH := $(PATH):/usr/sbin:/sbin

# Kernel tests wait about half of the time: one worker more than there are processors. More than four gain nothing.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 2 ? 2 : n > 3 ? 4 : n + 1)))
ARGS ?=

help:   ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

setup:  ## install all that is missing: system packages, .venv, Python packages
	@tools/setup

# What each needs of it: tools/packages.txt.
setup-run setup-demo:
	@tools/setup $(@:setup-%=%)

demo: setup-demo  ## the article's home on the real kernel, broken and healed, in under a minute
	@.venv/bin/sidegate demo $(ARGS)

test: setup  ## run all tests (ARGS="-k name" picks some, WORKERS=n sets how many at once)
	@tools/unpack
	@.venv/bin/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: setup  ## ruff check, ruff format --check, mypy --strict
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy

bench: setup  ## measure every number of the README
	@.venv/bin/python -m bench $(ARGS)

# Below --root nothing needs root, and to say what would be done neither.
SUDO = $(if $(findstring --root,$(ARGS))$(findstring --dry-run,$(ARGS)),,$(if $(filter 0,$(shell id -u)),,sudo))

install: setup-run  ## put it on this machine (ARGS="--start": and start it; ARGS="--root DIR": below DIR; ARGS=--dry-run)
	@$(SUDO) .venv/bin/python -B -m sidegate install $(ARGS)

uninstall: setup-run  ## take it off this machine again (ARGS="--keep config --keep state": but for these)
	@$(SUDO) .venv/bin/python -B -m sidegate uninstall $(ARGS)

clean:  ## remove all that the other targets made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist src/*.egg-info demo-report.html bench/results
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
