# PYTHON and VENV choose the interpreter and where the environment for development goes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Most tests wait most of the time, so that there may be more of them at once than processors.
JOBS ?= 4
# What tests, figures and the benchmark import.
TESTS = tests:tests/support
CONFIG = --config-filename etc/fedmsg.d/relay.py

.PHONY: help run demo screenshot test soak figures bench lint clean install uninstall

# The first target, so that a bare make runs the relay; what follows "##" is what help shows.
run: $(VENV)/.run ## run the relay on loopback, from .venv
	@echo "cd '$(CURDIR)' && $(BIN)/fedmsg-tail $(CONFIG)  # in a second terminal: prints messages"
	@echo "cd '$(CURDIR)' && $(BIN)/fedmsg-relay-publish $(CONFIG) --message hello  # in a third"
	@echo "cd '$(CURDIR)' && $(BIN)/fedmsg-relay $(CONFIG) --check  # whether the relay forwards"
	@exec $(BIN)/fedmsg-relay $(CONFIG)

help: ## show this
	@sed -n 's/^\([a-z]*\):.* ## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

demo: $(VENV)/.run ## show a line that goes through the relay
	@PYTHONPATH=$(TESTS) $(BIN)/python tests/demo.py

screenshot: $(VENV)/.test ## take the picture of the status page anew; takes Chromium
	PYTHONPATH=$(TESTS) $(BIN)/python tests/screenshot.py

test: $(VENV)/.test ## run the tests, or some: ARGS="-k hold"
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist worksteal $(ARGS)

soak: $(VENV)/.test ## everything at once, with crashes, for SOAK_SECONDS
	PYTHONPATH=$(TESTS) $(BIN)/python -m figures.soak

figures: $(VENV)/.test ## measure what the manual promises, or some: ARGS="outages"
	PYTHONPATH=$(TESTS) $(BIN)/python -m figures $(ARGS)

bench: $(VENV)/.bench $(VENV)/upstream ## measure the speed beside its peers: ARGS="throughput"
	PYTHONPATH=$(TESTS) $(BIN)/python -m bench $(ARGS)

lint: $(VENV)/.lint ## ruff, mypy, import-linter, shellcheck
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	sed '1,/^# -- The same/d' init/fedmsg-relay | cat init/fedmsg-relay-amqp - | $(BIN)/shellcheck -
	$(BIN)/shellcheck init/fedmsg-relay init/install init/uninstall tests/support/box.sh .ci/run

clean: ## remove .venv and what was built
	rm -rf $(VENV) build *.egg-info

# DESTDIR is put before every path, for packages; without it a service user is made as well.
DESTDIR =
PREFIX = /usr/local
LIB = $(PREFIX)/lib/fedmsg-relay

install: ## install the service (as root): PYTHON=, PREFIX=, DESTDIR=
	@PYTHON='$(PYTHON)' LIB='$(LIB)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' sh init/install

uninstall: ## remove the service; its configuration and logs stay
	@LIB='$(LIB)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' sh init/uninstall

# Each stamp says that the environment has what its extra needs.
$(VENV)/.run: EXTRA = stock
$(VENV)/.test: EXTRA = test
$(VENV)/.bench: EXTRA = bench
$(VENV)/.lint: EXTRA = lint
$(VENV)/.%: setup.py
	@echo "installing fedmsg-relay and its dependencies into $(VENV); takes about a minute"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	@touch $@

# Upstream's relay, to compare with; where it cannot be installed the benchmark goes without.
$(VENV)/upstream: $(VENV)/.bench
	$(PYTHON) -m venv $@
	-$@/bin/pip install --quiet --disable-pip-version-check \
		'fedmsg[commands,consumers]' 'setuptools<81' six
