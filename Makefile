# What a newcomer needs. Everything is installed into $(VENV), once; nothing outside it is touched.
# Variables, each with its default; set them on the command line, as in `make run ROUNDS=3`:
PYTHON ?= python3
VENV ?= .venv
# Any torch that pyproject.toml allows. Give it pip's own options to choose a build: TORCH="torch==2.13.0 --index-url URL".
TORCH ?= torch==2.13.0
NODES ?= 8
ROUNDS ?= 30
SEEDS ?= 0:500
ARGS ?=
# Where `gossipnode prepare` puts what it fetched, for the tests of the language task; your own cache serves as well.
export GOSSIPNODE_CACHE ?= $(abspath $(VENV))/cache

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input -qq install
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.PHONY: run test lint types language sim sim-sweep clean help lock

run: $(VENV)/.installed  # train MNIST with $(NODES) real nodes on this machine and write report.json
	$(BIN)/python scripts/testnet.py --nodes $(NODES) --rounds $(ROUNDS) --protocol modest --task mnist --seed 1 \
		--json report.json $(ARGS)

test: lint types language  # style, types, import contracts, then every test; the last line counts them
	$(BIN)/python -m pytest -q -n auto $(ARGS)

lint: $(VENV)/.installed  # style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.installed  # mypy, strict
	$(BIN)/mypy

language: $(VENV)/.installed  # fetch and encode the sentences of the task sentiment, once: a minute
	@$(BIN)/gossipnode prepare sentiment || echo "Without its files the tests of the task sentiment are skipped."

sim: $(VENV)/.installed  # a swarm under virtual time in one process; ARGS="--help" lists what can be set
	$(BIN)/gossipnode simulate $(ARGS)

sim-sweep: $(VENV)/.installed  # $(SEEDS) random-fault seeds under the checkers; a failure prints the line that replays it
	$(BIN)/gossipnode simulate --nodes 10 --rounds 12 --random-faults --seeds $(SEEDS) $(ARGS)

clean:  # remove the virtual environment and every cache
	rm -rf $(VENV) build dist report.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  # this list
	@sed -n 's/^\([a-z-]*\):[^#]*# /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

# torch comes first and by version only: which build is right depends on the machine, and a lock of it would drag 15 GPU
# packages along. All the rest is checked by hash. --no-deps, because the two files are complete (`pip check` proves it).
$(VENV)/.installed: pyproject.toml constraints.txt constraints-dev.txt
	@$(PYTHON) scripts/preflight.py
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing $(TORCH) ..."
	@$(PIP) $(TORCH)
	@echo "Installing the locked packages (fastecdsa is compiled) ..."
	@$(PIP) --no-deps --require-hashes --use-pep517 -r constraints.txt -r constraints-dev.txt
	@echo "Installing gossipnode ..."
	@$(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip --disable-pip-version-check -q check
	@touch $@

lock: $(VENV)/.installed  # choose newer versions: rewrite constraints.txt and constraints-dev.txt
	@$(PIP) uv
	@rm -f $(VENV)/run.txt $(VENV)/dev.txt
	@echo "torch ; python_version < '3'" > $(VENV)/without-torch.txt
	$(LOCK) --overrides $(VENV)/without-torch.txt pyproject.toml -o $(VENV)/run.txt
	$(LOCK) --overrides $(VENV)/without-torch.txt pyproject.toml --extra dev -c $(VENV)/run.txt -o $(VENV)/dev.txt \
		$$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' $(VENV)/run.txt)
	@{ echo "# What a node runs on Python 3.11 to 3.13, by hash; made by \`make lock\`. torch is left out on purpose: the Makefile"; \
		echo "# installs it first, as torch==2.13.0, so that each machine gets the build that suits it."; \
		cat $(VENV)/run.txt; } > constraints.txt
	@{ echo "# What the tests, the linters and an editable install need beside constraints.txt; made by \`make lock\`."; \
		cat $(VENV)/dev.txt; } > constraints-dev.txt
