# Everything runs in .venv, which make builds itself. PYTHON picks the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/quickstart

.PHONY: quickstart quickstart-ofb test test-slow bench options quality style clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	# torch first and by itself: put another build (CUDA, ROCm) into .venv beforehand and it stays
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

quickstart: .venv/installed  ## a small SAM on generated shapes: pretrain, rank, reorder, sandwich, search, extract
	$(BIN)/supersam-hf run --config recipes/supersam/quickstart.yaml --output_dir $(RUN)

quickstart-ofb: .venv/installed  ## a small ViT on generated shapes: pretrain, bi-mask search to half its MACs, extract, retrain
	$(BIN)/supersam-hf ofb run --config recipes/ofb_vit/quickstart.yaml --output_dir $(RUN)-ofb

test: .venv/installed  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

test-slow: .venv/installed  ## the tests that take minutes
	$(BIN)/python -m pytest -n auto -m slow

bench: .venv/installed  ## all benchmarks, on a machine that does nothing else; table and figure in benchmarks/results/bench
	$(BIN)/python benchmarks/run.py

options: .venv/installed  ## the table of options that `--help` reads, after a change of one
	$(BIN)/python -m supersam_hf.option_table

quality: .venv/installed  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: .venv/installed  ## apply lint fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist src/*.egg-info
