# make demo: optimise the bundled model.  make test: all tests.  make check: format, lint, types, architecture.
# make bench: hasten against what people run today, and README's table of it.
# Both begin from a fresh clone with Python 3.11 or later; PYTHON=python3.12 picks another one.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
READY := .venv/ready

.PHONY: demo test avx2 check format bench docs clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/hasten demo --out runs/demo

# Two at once, but for what measures real seconds.  It says what was skipped and why, and which tests are the slowest.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -rs --durations 20 -m "not alone"
	$(BIN)/python -m pytest -rs -m alone

# What rests on the instruction set, as a processor with AVX2 alone would compute it.
avx2: $(READY)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
		tests/contract tests/unit/technique tests/unit/runtime

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# azula is installed alone: what it asks for has no build for this torch on a CPU, and is not needed.
bench: $(READY)
	$(PIP) -e '.[bench]'
	$(PIP) --no-deps azula==0.11.1
	$(BIN)/python benchmarks/opponents.py
	$(BIN)/python benchmarks/readme.py

# The pages of docs/ as a site, in build/site; a link that leads nowhere is an error.
docs: $(READY)
	$(PIP) -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The same packages tomorrow as today, each of the hash in constraints.txt.  Which build of torch is right depends on the
# machine, so it has none.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps -r constraints.txt
	$(PIP) torch==2.13.0
	$(PIP) --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf .venv runs build dist
