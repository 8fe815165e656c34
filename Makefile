# make demo: optimise the bundled model.  make test: all tests.  make check: format, lint, types, architecture.
# make bench: hasten against what people run today, and README's table of it.
# Both begin from a fresh clone with Python 3.11 or later; PYTHON=python3.12 picks another one.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test avx2 check format bench clean

demo: $(READY)
	rm -rf runs/demo
	$(BIN)/hasten demo --out runs/demo

# Two at once, but for what measures real seconds.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

# What rests on the instruction set, as a processor with AVX2 alone would compute it.  Graphs of weights in few bits are left
# out: where a processor has AVX512 and is told not to use it, OpenVINO 2026.4 can't compile them (on a real one it can).
avx2: $(READY)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile \
		tests/contract tests/unit/technique tests/unit/runtime -k 'not slim and not test_compress'

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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps azula==0.11.1
	$(BIN)/python benchmarks/opponents.py
	$(BIN)/python benchmarks/readme.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv runs build dist
