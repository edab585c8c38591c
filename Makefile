# Thin names for the scripts; `make` alone lists them. All of them install into .venv first, if need be.
.PHONY: help install check test docs bench
export PATH := $(CURDIR)/.venv/bin:$(PATH)

help:
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile

install: ## install into .venv, with what tests and docs need
	bash launch/install.sh dev

check: install ## lint, format, types
	ruff check .
	ruff format --check .
	python -m pyright --pythonpath .venv/bin/python

test: ## all of tests/run.sh: install, check, run all tests
	bash tests/run.sh

docs: install ## the documentation, into site/; open site/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

bench: install ## what users measure: a layer's scan, and whole steps
	tttscale bench scan
	tttscale bench step
