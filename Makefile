# PYTHON and VENV choose the interpreter and where the environment for development goes.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Most tests wait most of the time, so that there may be more of them at once than processors.
JOBS ?= 4
# What tests, figures and the benchmark import.
TESTS = tests:tests/support
CONFIG = --config-filename etc/fedmsg.d/relay.py

.PHONY: run demo test soak figures bench lint clean install uninstall

run: $(VENV)/.run
	@echo "In a second terminal:  $(BIN)/fedmsg-tail $(CONFIG)"
	@echo "In a third:            echo hello | $(BIN)/fedmsg-logger $(CONFIG)"
	@echo "Ctrl-C stops the relay."
	@exec $(BIN)/fedmsg-relay $(CONFIG)

demo: $(VENV)/.run
	@PYTHONPATH=$(TESTS) $(BIN)/python tests/demo.py

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses=$(JOBS) --dist worksteal $(ARGS)

soak: $(VENV)/.test
	PYTHONPATH=$(TESTS) $(BIN)/python -m figures.soak

figures: $(VENV)/.test
	PYTHONPATH=$(TESTS) $(BIN)/python -m figures $(ARGS)

bench: $(VENV)/.bench $(VENV)/upstream
	PYTHONPATH=$(TESTS) $(BIN)/python -m bench $(ARGS)

lint: $(VENV)/.lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/shellcheck init/fedmsg-relay init/install init/uninstall tests/support/box.sh .ci/run

clean:
	rm -rf $(VENV) build *.egg-info

# DESTDIR is put before every path, for packages; without it a service user is made as well.
DESTDIR =
PREFIX = /usr/local
LIB = $(PREFIX)/lib/fedmsg-relay

install:
	@PYTHON='$(PYTHON)' LIB='$(LIB)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' sh init/install

uninstall:
	@LIB='$(LIB)' PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' sh init/uninstall

# Each stamp says that the environment has what its extra needs.
$(VENV)/.run: EXTRA = stock
$(VENV)/.test: EXTRA = test
$(VENV)/.bench: EXTRA = bench
$(VENV)/.lint: EXTRA = lint
$(VENV)/.%: setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$(EXTRA)]'
	@touch $@

# Upstream's relay, to compare with; where it cannot be installed the benchmark goes without.
$(VENV)/upstream: $(VENV)/.bench
	$(PYTHON) -m venv $@
	-$@/bin/pip install --quiet --disable-pip-version-check \
		'fedmsg[commands,consumers]' 'setuptools<81' six
