"""A seeded slice of benchmarks/mutations.py: inputs with something wrong are answered well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "mutations.py"
KINDS = ("weights", "configs", "indexes", "plans", "artifacts", "recipes", "arguments", "data")  # runs: a profile first


def test_inputs_with_something_wrong_end_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "mutations.json"
    kinds = [word for kind in KINDS for word in ("--kind", kind)]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *kinds, "--seed", "12", "--count", "40", "--jobs", "2", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    found = json.loads(out.read_text())
    assert found["inputs"] == 40
    assert {row["kind"] for row in found["rows"]} == set(KINDS)
    assert sum(row["refused"] for row in found["rows"]) > 20


def test_what_is_not_answered_well_is_bad_and_said_how_to_have_again(tmp_path: Path) -> None:
    code = "raise KeyError('what')"
    done = subprocess.run(
        [sys.executable, "-c", PLANTED.format(code=code), str(SCRIPT), str(tmp_path / "mutations.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "BAD bare exception: hasten" in done.stdout
    assert "benchmarks/mutations.py --seed 0 --kind plans --only" in done.stdout


PLANTED = """
import runpy, sys
from hasten.technique import plan

def read(path):
    {code}

plan.read = read
script, out = sys.argv[1:]
sys.argv = [script, "--kind", "plans", "--count", "4", "--out", out]
runpy.run_path(script, run_name="__main__")
"""
