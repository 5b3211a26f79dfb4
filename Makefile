# Everything runs in .venv, which the first target that needs it sets up: torch, the build, the extras.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
SOURCES := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: build test demo bench check-deep clean

build: $(VENV)/built

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet "$(TORCH)" numpy "setuptools>=77" wheel ninja
	touch $@

# No build isolation: the extension must be compiled against the torch that will load it.
$(VENV)/built: $(VENV)/torch $(SOURCES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m pip install --quiet --no-build-isolation --editable .
	touch $@

# One stamp for each extra of pyproject.toml.
$(VENV)/extra-%: $(VENV)/built pyproject.toml
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) -m pip install --quiet --no-build-isolation --editable ".[$*]"
	touch $@

test: $(VENV)/extra-test
	$(RUN) -m pytest

demo: $(VENV)/extra-examples
	$(RUN) -m examples.char_lm

bench: $(VENV)/extra-bench
	$(RUN) -m bench

clean:
	rm -rf $(VENV) build rnnkernels.egg-info rnnkernels/_C*.so rnnkernels/_build.py
