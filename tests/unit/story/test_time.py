"""``--time`` is kept at every speed: a clock that the test drives counts what each part would take on a machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten import artifact, propose, result
from hasten.data.array import Data
from hasten.diffusion import schedule
from hasten.measure import quality
from hasten.measure.clock import Clock
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Case
from hasten.propose import Proposal
from hasten.story import compare
from hasten.story.stages import run, trying
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime

# About what the demo takes on two cores of an AMD EPYC with AVX512, in seconds: a row of an evaluation by engine (from
# a run's ways.json), preparing an engine, and what else there is.  About so is enough: what is tested is that
# time is kept at a quarter of them and at four times as much.
ROWS = {"": 0.0083, "runtime": 0.0037, "quantize": 0.003}
PREPARED = {"": 0.1, "runtime": 2.0, "quantize": 5.0}
FIXED = {
    (trying, "profile_network"): 1.5,
    (trying, "profile_winner"): 0.5,
    (quality, "reference"): 3.2,
    (quality, "compare"): 0.3,
    (artifact, "save"): 1.5,
    (result, "peak_memory"): 5.0,
    (compare, "peak_memory"): 5.0,
}


class Machine:
    """A machine ``slowness`` times as slow as the one that these figures are from."""

    def __init__(self, slowness: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slowness, self.ns, self.rows = slowness, 0, dict[int, float]()
        for module in (run, compare):
            monkeypatch.setattr(module, "Clock", lambda device: Clock(device, read_ns=lambda: self.ns, warm=0))
        for (owner, name), seconds in FIXED.items():
            monkeypatch.setattr(owner, name, self.costing(getattr(owner, name), lambda *_, seconds=seconds: seconds))
        monkeypatch.setattr(run.Run, "built", self.preparing(run.Run.built))
        sample, evaluate = Target.sample, Target.evaluate
        monkeypatch.setattr(
            Target, "sample", self.costing(sample, lambda on, case: self.row(on, case) * on.table.evaluations)
        )
        monkeypatch.setattr(Target, "evaluate", self.costing(evaluate, self.row))

    @property
    def seconds(self) -> float:
        return self.ns * 1e-9

    def row(self, target: Target, case: Case) -> float:
        return self.rows.get(id(target.network), ROWS[""]) * len(case.noise)

    def costing(self, function: Callable[..., Any], seconds: Callable[..., float]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            found = function(*arguments, **named)
            self.ns += round(seconds(*arguments) * self.slowness * 1e9)
            return found

        return timed

    def preparing(self, built: Callable[..., Any]) -> Callable[..., Any]:
        seen: list[Any] = []

        def timed(asked: run.Run, plan: Plan) -> Any:
            target, size = built(asked, plan)
            last = next((t.name for t in reversed(plan.techniques) if t.name in ROWS), "")
            network = [t for t in plan.techniques if t.name in ROWS]
            self.ns += round((0.5 if network in seen else PREPARED[last]) * self.slowness * 1e9)
            seen.append(network)
            self.rows[id(target.network)] = ROWS[last]
            self.kept = [*getattr(self, "kept", []), target.network]  # so that no other gets its id
            return target, size

        return timed


class Gaussian(torch.nn.Module):
    """What a perfect network answers where the data is N(mean, deviation^2), pixel by pixel."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.mean = torch.nn.Parameter(torch.rand(1, 1, 8, 8, generator=generator) - 0.5)
        self.deviation = torch.nn.Parameter(0.1 + 0.4 * torch.rand(1, 1, 8, 8, generator=generator))
        noise = schedule.linear()
        steps = (torch.arange(1000) + 1) / 1000
        self.register_buffer("alpha", torch.tensor(noise.alpha(steps.numpy()), dtype=torch.float32))
        self.register_buffer("sigma", torch.tensor(noise.sigma(steps.numpy()), dtype=torch.float32))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        step = time.round().long().clamp(0, 999)
        alpha, sigma = self.alpha[step].reshape(-1, 1, 1, 1), self.sigma[step].reshape(-1, 1, 1, 1)
        variance = self.deviation**2
        return self.mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * self.mean)


@pytest.fixture(scope="module")
def source() -> Source:
    return hasten.load(Gaussian(), schedule=schedule.linear(), prediction="sample", shape=(1, 8, 8))


@pytest.fixture(scope="module")
def data(source: Source) -> Data:
    """Not quite what the network believes, as it is with those that were trained."""
    samples, model, count = (
        np.random.default_rng(0).standard_normal((1024, 1, 8, 8), dtype=np.float32),
        Gaussian(),
        1024,
    )
    samples = 0.3 + 0.5 * model.mean.detach().numpy() + 0.6 * model.deviation.detach().numpy() * samples
    return Data("gaussian", samples, np.zeros(count, np.int64), ("all",), np.arange(count) % 10 == 0)


@pytest.fixture(scope="module")
def found() -> dict[float, dict[str, Any]]:
    """What was found, by slowness."""
    return {}


@pytest.mark.parametrize("slowness", [0.25, 1.0, 2.0, 4.0])
def test_optimize_keeps_its_time_and_proves_a_plan(slowness, source, data, found, tmp_path: Path, monkeypatch) -> None:
    plans = [(Runtime(streams=1),), (Runtime(streams=1), Quantize())]
    monkeypatch.setattr(propose, "ways", lambda *_: ([Proposal(Plan(each), "") for each in plans], []))
    machine = Machine(slowness, monkeypatch)
    found[slowness] = hasten.optimize(source, data, out=tmp_path, seconds=240.0)
    assert machine.seconds <= 1.1 * 240.0
    assert found[slowness]["passed"]


def test_at_half_the_speed_the_result_is_as_good(found) -> None:
    whole, half = found[1.0], found[2.0]
    assert half["candidate"]["label"] == whole["candidate"]["label"]
    assert whole["speedup"]["low"] <= half["speedup"]["ratio"] <= whole["speedup"]["high"]


def test_what_a_quarter_of_the_speed_leaves_undone_is_said(found) -> None:
    said = " ".join(found[4.0]["warnings"])
    assert "at once, not 16: a longer time allows more" in said
    assert "the time ended the search before" in said


@pytest.mark.parametrize("slowness", [0.25, 1.0, 4.0])
def test_compare_keeps_its_time(slowness: float, source: Source, monkeypatch) -> None:
    machine = Machine(slowness, monkeypatch)
    found = hasten.compare(source, source, seconds=120.0)
    assert machine.seconds <= 1.1 * 120.0
    assert found["speedup"]["rounds"] >= 9
