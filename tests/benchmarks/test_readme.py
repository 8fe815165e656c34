"""What README and docs show is what the committed results and the code make: tables, commands, map of files."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def readme() -> Iterator[Any]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("readme")
    sys.path.remove(str(BENCHMARKS))


def test_what_is_committed_is_what_is_made(readme: Any) -> None:
    """Else ``python benchmarks/readme.py`` mends it."""
    made = readme.made()
    assert len(made) > 10
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.relative_to(ROOT)}: run python benchmarks/readme.py"
    assert set((ROOT / "docs" / "commands").glob("*.md")) <= set(made)


def test_every_result_says_its_machine(readme: Any) -> None:
    for path in (BENCHMARKS / "results").glob("*.json"):
        read = json.loads(path.read_text())
        for environment in (
            [each["environment"] for each in read.values()] if path.stem == "demo" else [read["environment"]]
        ):
            assert readme.pages.machine(environment).partition(" cores of ")[0].isdigit(), path


def test_a_block_stands_once(readme: Any) -> None:
    with pytest.raises(SystemExit, match="one is needed"):
        readme.filled("no markers here", "bench", "x")


def test_bytes_are_said_in_one_unit() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert not {"MiB", "GiB", "KiB"} & set(path.read_text(encoding="utf-8").replace("|", " ").split()), path


def test_a_demo_takes_the_place_of_its_own_kind_of_processor(
    readme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' rows stay; the newest is shown, with its pictures."""
    folders = {name: tmp_path / name for name in ("DEMO", "RESULTS", "IMAGES")}
    for name, folder in folders.items():
        folder.mkdir()
        monkeypatch.setattr(readme, name, folder)
    old = json.loads((BENCHMARKS / "results" / "demo.json").read_text())
    (folders["RESULTS"] / "demo.json").write_text(json.dumps(old))
    made = json.loads(json.dumps(old["Intel Xeon, AMX"]))
    made["created"], made["speedup"]["ratio"] = "2099-01-01T00:00:00+00:00", 99.0
    samples = np.zeros((readme.ROWS * readme.COLUMNS, 3, 4, 4), np.float32)
    np.savez(folders["DEMO"] / "samples.npz", baseline=samples, candidate=samples)
    for cpu, kinds in (("Intel(R) Xeon(R) Processor", len(old)), ("Another(R) CPU @ 3 GHz", len(old) + 1)):
        made["environment"]["cpu"] = cpu
        (folders["DEMO"] / "result.json").write_text(json.dumps(made))
        readme.keep_demo()
        assert len(readme.result("demo")) == kinds
        assert readme.newest()["speedup"]["ratio"] == 99.0
        assert len(readme.processors().splitlines()) == 2 + kinds
    assert (folders["IMAGES"] / "before.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "told"),
    [(["avx2", "avx512f", "avx512_vnni"], "AVX-512 VNNI"), (["avx2", "amx_int8"], "AMX"), ([], "no vectors known")],
)
def test_a_processor_is_its_name_and_its_most_telling_set(readme: Any, flags: list[str], told: str) -> None:
    environment = {"cpu": "Intel(R) Xeon(R) Processor", "cpu_flags": flags, "cores": 2, "gpu": None}
    assert readme.pages.processor(environment) == f"Intel Xeon, {told}"


def test_a_module_without_a_docstring_is_named(readme: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme.pages, "ROOT", tmp_path)
    (tmp_path / "bare.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match=r"bare\.py has no docstring"):
        readme.pages.first_sentence(tmp_path / "bare.py")
    (tmp_path / "bare.py").write_text('"""Guidance (Ho et al. 2022, eq. 6) on two.  More: follows."""\n')
    assert readme.pages.first_sentence(tmp_path / "bare.py") == "Guidance (Ho et al. 2022, eq. 6) on two."
