# Two commands need nothing but Python >= 3.11, git and make:
#   make demo   sets up, then runs the whole loop on real handwriting and prints where the report is
#   make test   sets up, then runs the tests
PYTHON ?= python3
BIN := .venv/bin
# The networks here are tiny: a second thread gains little, and on a shared machine it makes them crawl.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test campaign check setup lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlhf-images needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@echo "Setting up .venv (about 6 GB, once) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --quiet --editable .
	@touch $@

demo: setup
	$(BIN)/rlhf-images pretrain configs/digits/pretrain.yaml
	$(BIN)/rlhf-images generate configs/digits/generate.yaml
	$(BIN)/rlhf-images label runs/demo/pairs --scripted bold --noise 0.1
	$(BIN)/rlhf-images train-reward configs/digits/reward.yaml
	$(BIN)/accelerate launch scripts/finetune.py configs/digits/finetune.yaml
	$(BIN)/rlhf-images evaluate runs/demo
	@echo "The annotator was a script. To label these pairs by yourself: $(BIN)/rlhf-images label runs/demo/pairs"

test: setup
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

campaign: setup ## The long trials of what the tests try briefly
	@$(BIN)/python -m pytest -m campaign

check: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

lock: ## Compile requirements.lock anew from pyproject.toml, for every platform, with hashes and no index address
	@$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --upgrade --extra dev pyproject.toml -o requirements.lock

clean:
	rm -rf .venv runs
