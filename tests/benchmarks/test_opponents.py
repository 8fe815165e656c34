"""The benchmark's opponents sample the same pictures on any engine, and their table is made of raw figures."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import openvino as ov
import pytest
import torch

from hasten.measure.quality import drift_db
from hasten.model import source
from hasten.model.workload import draw
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
ENGINES = ("eager", "OpenVINO")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def opponents() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("opponents")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def float32(monkeypatch) -> None:
    """OpenVINO's default is bf16 where the CPU has it: that is no error of the conversion, which is looked at here."""
    compile_model = functools.partial(ov.compile_model, config={"INFERENCE_PRECISION_HINT": "f32"})
    monkeypatch.setattr(ov, "compile_model", compile_model)


@pytest.mark.usefixtures("float32")
def test_every_engine_makes_the_same_pictures(opponents: Any, tiny_folder: Path) -> None:
    """Whatever the engine, diffusers' loops give what they give eagerly; hasten's rows agree with each other."""
    loaded = source.load(tiny_folder)
    winner = Plan((Runtime("float32", 1), Sampler("dpmpp_2m", 8, "logsnr")))
    built = opponents.entries(loaded, winner, 2)
    case = draw(loaded.shape, 1, 2, 3, loaded.labels).cases[0]
    made = {name: build().sample(case) for name, build in built.items() if "compile" not in name}
    assert all(samples.shape == (2, *loaded.shape) and torch.isfinite(samples).all() for samples in made.values())
    eager = {name: samples for name, samples in made.items() if name.startswith("diffusers") and "eager" in name}
    assert len(eager) == 2
    compared = 0
    for name, samples in eager.items():
        for other, theirs in made.items():
            if other != name and other.rpartition(", ")[0] == name.rpartition(", ")[0]:
                assert drift_db(samples, theirs) > 60.0, other
                compared += 1
    assert compared >= 2  # OpenVINO at least, in both loops
    if any("azula" in name for name in made):
        ours = made["hasten, baseline: DDIM 50, eager"]
        assert drift_db(ours, made["azula, DDIM 50, eager"]) > 40.0


@pytest.mark.usefixtures("float32")
def test_a_model_without_labels(opponents: Any, other_folder: Path) -> None:
    loaded = source.load(other_folder)
    case = draw(loaded.shape, 1, 2, 3, loaded.labels).cases[0]
    made = [opponents.opponent(loaded, opponents.ENGINES[name], 2, opponents.fast, 8).sample(case) for name in ENGINES]
    assert drift_db(*made) > 60.0


def test_the_table_is_made_of_the_raw_figures(opponents: Any) -> None:
    result = json.loads((BENCHMARKS / "results" / "opponents.json").read_text())
    shown = opponents.table(result)
    assert len(shown.splitlines()) == 2 + len(result["rows"])
    for row in result["rows"]:
        seconds: dict[int, float] = {}
        for o in result["observations"]:
            if o["plan"] == row["name"] and o["seconds"] is not None:
                seconds[o["round"]] = o["seconds"] / o["images"]
        middle = sorted(seconds.values())[len(seconds) // 2]
        assert row["seconds_per_image"] == pytest.approx(middle)
        assert f"| {row['name']} | {row['seconds_per_image']:.3g} |" in shown
