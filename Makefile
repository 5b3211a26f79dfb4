# Everything runs in .venv, which the first target that needs it sets up: torch, the build, what the target requires.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet
SOURCES := setup.py $(shell find csrc -type f)

.PHONY: build test demo examples bench check-deep clean

build: $(VENV)/built

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)" numpy "setuptools>=66.1" wheel ninja
	touch $@

# In place: ninja recompiles what changed, and the source tree is what runs.
$(VENV)/built: $(VENV)/torch $(SOURCES)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(RUN) setup.py --quiet build_ext --inplace
	touch $@

$(VENV)/requires-%: requirements/%.txt $(VENV)/torch
	$(PIP) -r $<
	touch $@

# A process per core: threads of torch's that wait must not spin on another's core.
test: $(VENV)/built $(VENV)/requires-test $(VENV)/requires-examples
	OMP_WAIT_POLICY=passive $(RUN) -m pytest --numprocesses=auto --dist=worksteal

demo: $(VENV)/built $(VENV)/requires-demo
	$(RUN) -m examples.char_lm

# Every program of examples/README.md: under ten minutes on two cores. FULL=--full: three seeds, longer, about an hour.
PROGRAMS := char_lm gradient_flow memory_task speaker_id caption_digit moving_digits forecast restore_case pronounce ddp_lm
examples: $(VENV)/built $(VENV)/requires-examples
	status=0; for program in $(PROGRAMS); do $(RUN) -m examples.$$program $(FULL) || status=1; done; exit $$status

bench: $(VENV)/built $(VENV)/requires-bench
	$(RUN) -m bench

# Sanitizers, half an hour, and mutants, hours (tests/deep/mutate.py --missing goes on where it was stopped).
check-deep: $(VENV)/built $(VENV)/requires-test
	$(RUN) tests/deep/sanitizers.py
	$(RUN) tests/deep/mutate.py

clean:
	rm -rf $(VENV) build rnnkernels.egg-info rnnkernels/_C*.so rnnkernels/_build.py
