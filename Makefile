# Every target sets up .venv by itself when it is missing or older than what describes it.
#   make demo [ARGS="--rounds 4"]   a whole swarm on this machine, from recipe to trained model
#   make test                       ruff, mypy, and the tests that take seconds
#   make test-slow                  the tests that take minutes
#   make lint                       ruff and mypy alone
#   make fix                        formats, and mends what ruff can mend
#   make prometheus                 Debian's Prometheus in .venv/prometheus, for the tests of rules and dashboards
#   make bench                      every measurement in benchmarks/ that this machine can make
#   make .venv                      only set up; UNLOCKED=1 takes other files of the same versions than requirements.lock
#   make lock                       writes requirements.lock anew, for constraints.txt as it is

SHELL := /bin/bash
ARGS ?=

# The first Python here that will do; override with `make PYTHON=/path/to/python3.11`.
PYTHON ?= $(shell for candidate in python3 python3.12 python3.11 python3.10; do \
	$$candidate -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$candidate && break; done)
VENV_PYTHON := .venv/bin/python
UNLOCKED ?=
PIP_INSTALL := $(VENV_PYTHON) -m pip --disable-pip-version-check --quiet install
INSTALL := $(PIP_INSTALL) --constraint constraints.txt
INSTALL_LOCKED := $(PIP_INSTALL) --require-hashes --no-deps --requirement
BENCHMARKS := $(patsubst %/__main__,%,$(patsubst %.py,%,$(shell grep -l __main__ benchmarks/*.py benchmarks/*/__main__.py)))

.PHONY: demo test test-slow lint fix bench prometheus lock .venv
.DELETE_ON_ERROR:

demo: .venv
	$(VENV_PYTHON) -m trainer.demo $(ARGS)

test: lint .venv/prometheus/tried
	$(VENV_PYTHON) -m pytest $(ARGS)

test-slow: .venv .venv/prometheus/tried
	$(VENV_PYTHON) -m pytest -m slow $(ARGS)

fix: .venv
	$(VENV_PYTHON) -m ruff format .
	$(VENV_PYTHON) -m ruff check --fix .

lint: .venv
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

bench: .venv
	@for benchmark in $(subst /,.,$(BENCHMARKS)); do echo "== $$benchmark"; \
		$(VENV_PYTHON) -m "$$benchmark" $(ARGS) || { code=$$?; \
		[ $$code = 3 ] || exit $$code; echo "Left out: this machine cannot measure it."; }; done

# Nothing is installed system-wide: the package is unpacked, with apt's lists and cache in the same folder. Where it
# cannot be had, the tests that need it are skipped and say so; `make prometheus` tries again.
APT := apt-get -qq -o Dir::State::lists=lists -o Dir::Cache=cache -o APT::Sandbox::User= -o Acquire::Retries=0 \
	-o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10
define UNPACK_PROMETHEUS
	@rm -rf .venv/prometheus
	@mkdir -p .venv/prometheus/lists/partial .venv/prometheus/cache/archives/partial
	@cd .venv/prometheus && if { command -v promtool && command -v prometheus; } >log.txt; then true; \
		elif { $(APT) update && $(APT) download prometheus && dpkg -x prometheus_*.deb .; } >log.txt 2>&1; then true; \
		else echo "No Prometheus can be had here (.venv/prometheus/log.txt): tests that need it are skipped."; fi; \
		rm -rf lists cache ./*.deb
	@touch .venv/prometheus/tried
endef

prometheus: .venv
	$(UNPACK_PROMETHEUS)

.venv/prometheus/tried: | .venv
	$(UNPACK_PROMETHEUS)

# uv asks the index for the hash of every file of every pinned version: for all Pythons, wheels and sources alike.
lock: .venv
	@$(PYTHON) -m venv .venv/lock
	@.venv/lock/bin/python -m pip --disable-pip-version-check --quiet install uv==0.13.9
	@grep -v '^torch==' constraints.txt | env $${PIP_CERT:+SSL_CERT_FILE=$$PIP_CERT} .venv/lock/bin/uv pip compile \
		--quiet --universal --python-version 3.10 --no-deps --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --no-config --output-file requirements.lock -

.venv: .venv/installed

# First what requirements.lock has, by its hashes, and then torch with what comes with its build; setuptools is there by then.
# Which build of torch comes is up to the indexes that pip is set to: see docs/dependencies.md.
.venv/installed: setup.cfg pyproject.toml constraints.txt requirements.lock
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
		echo "Manyhands runs on Linux x86_64: hivemind's network daemon is built for nothing else. This is $$(uname -sm)." \
			"On Windows, use WSL 2; on a Mac, a Linux virtual machine or container." >&2; exit 3; fi
	@if [ -z "$(PYTHON)" ]; then \
		echo "Manyhands needs Python 3.10, 3.11 or 3.12, and none is on the PATH. Install one (on Debian and Ubuntu:" \
			"apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.11" >&2; exit 3; fi
	@echo "Setting up .venv with $(PYTHON): a few minutes, once."
	@$(PYTHON) -m venv .venv
	@if [ -n "$(UNLOCKED)" ]; then $(INSTALL) pip setuptools; else \
		$(INSTALL_LOCKED) <(sed -nE '/^(pip|setuptools)==/,/[^\\]$$/p' requirements.lock) \
		&& $(INSTALL_LOCKED) requirements.lock --no-build-isolation || { \
		echo "Not everything could be installed as requirements.lock has it. If the message above speaks of a hash, an index" \
			"or a cache gave another file than was tested: find out why. make UNLOCKED=1 takes it all the same." >&2; \
		exit 3; }; fi
	@PYTHONWARNINGS=ignore $(INSTALL) --no-build-isolation --editable .[dev]  # setuptools warns of editable installations
	@touch $@
