# Two commands for a fresh machine with Python 3.11+, pip, make and apt:
#   make demo    a running service with three live devices
#   make test    everything that is checked before a change lands
# CONTRIBUTING.md says which of the others is for what.

VENV   ?= .venv
PYTHON ?= python3
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test test-fast check proofs bench screenshots format docs linkcheck dist clean

# A stamp per environment: installed again only when the project's metadata changes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || tests/run --install-venv
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet --editable '.[server]'
	touch $@

demo: $(VENV)/.installed
	@exec $(VENV)/bin/mdash demo $(DEMO_ARGS)

test:
	@PYTHON="$(PYTHON)" tests/run

# Core, hub, backends, trio and server, without browsers and killed processes, on one Python: a minute and a half.
test-fast:
	@PYTHON="$(PYTHON)" tests/run --fast

check:
	@PYTHON="$(PYTHON)" tests/run --only-static

# What is long by nature, and not part of `make test`: two hundred killed servers, thousands of devices; an hour at most.
proofs:
	@PYTHON="$(PYTHON)" tests/run --proofs

# The comparisons, in about ten minutes; BENCH_ARGS=--long is the real one: an hour.
bench: .venv-bench/.installed
	.venv-bench/bin/python -m benchmarks $(BENCH_ARGS)

.venv-bench/.installed: pyproject.toml
	PYTHON="$(PYTHON)" benchmarks/install
	touch $@

# Every view of the dashboard, light, dark and on a phone, into the folder screenshots.
screenshots: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --group dev
	$(VENV)/bin/python -m pytest tests/ui/screenshots.py

format: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --group dev
	$(VENV)/bin/ruff check --fix src tests benchmarks
	$(VENV)/bin/ruff format src tests benchmarks

# What pages have from the code (docstrings, bounds, machines), and then the site from all pages. Needs Graphviz.
SITE ?= build/docs
docs: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable '.[server,testing]' --group docs
	for script in $(filter-out docs/conf.py,$(wildcard docs/*.py)); do $(VENV)/bin/python $$script || exit; done
	$(VENV)/bin/python -m sphinx -q --fail-on-warning --fresh-env -c docs . $(SITE)
	@echo "The site: $(SITE)/index.html"

# Links to other hosts, from all pages: asks each host, so it needs the internet and is no part of `make test`.
linkcheck: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --editable '.[server,testing]' --group docs
	$(VENV)/bin/python -m sphinx -q -b linkcheck -c docs . build/linkcheck

# The wheel and the source archive, from the files as they are.
dist: $(VENV)/.installed
	$(VENV)/bin/pip install --quiet --group dist
	rm -rf dist
	$(VENV)/bin/python -m hatchling build
	$(VENV)/bin/python -m twine check --strict dist/*

clean:
	rm -rf .venv .venv-* node_modules mdash-data mdash-demo screenshots build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
