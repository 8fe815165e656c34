"""What the search chooses from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hasten.errors import BadInput, HastenError
from hasten.measure.clock import Clock, Deadline
from hasten.model.workload import Case, draw
from hasten.propose import Proposal
from hasten.story.stages.run import Run
from hasten.story.stages.ways import Engine, closest, keep, kept_in, refuse_slower, try_engines
from hasten.technique.contract import Technique
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling

SOURCE = SimpleNamespace(name="model", device="cpu")


def engine(
    seconds: float, drift_db: float | None, *techniques: Technique, size: int = 10, noise: float = 0.0
) -> Engine:
    """Nine rounds of about ``seconds``, every second one ``noise`` longer."""
    rounds = tuple(seconds * (1 + noise * (n % 2)) for n in range(9))
    return Engine(Plan(techniques), "", rounds, drift_db, weight_bytes=size)


def test_engines_of_a_run_are_read_as_they_were_written_and_nothing_else(tmp_path: Path) -> None:
    path, tried = tmp_path / "engines.json", [engine(1.0, None), engine(0.5, 60.0, Layout())]
    path.write_text(json.dumps([each.to_json() for each in tried]) + "\n")
    assert kept_in(path) == tried
    row = tried[1].to_json()
    for odd in ("[]", "{", "\udc80", "[" * 100_000, *(json.dumps([row | wrong]) for wrong in ODD)):
        path.write_bytes(odd.encode("utf-8", "surrogateescape"))
        with pytest.raises(BadInput, match=r"engines\.json"):
            kept_in(path)


ODD = (
    {"plan": 1}, {"plan": [{"technique": "x"}]}, {"seconds": "x"}, {"seconds": [-1]}, {"seconds": [float("nan")]},
    {"drift_db": "x"}, {"more": 1}, {"weight_bytes": 1.5}, {"reason": None},
)  # fmt: skip


def run(goal: str = "throughput", size_bytes: float | None = None) -> Run:
    nothing = (SOURCE, None, Path("out"), 0.02, 60.0, 16, 0, lambda *_: None, lambda: False)
    return Run(*nothing, goal=goal, size_bytes=size_bytes)  # type: ignore[arg-type]


def test_the_fastest_engines_of_each_network_and_the_closest_are_kept() -> None:
    student = Swap("student", weights="0123")
    tried = [
        engine(1.0, None),
        engine(0.9, 150.0, Layout()),
        engine(0.5, 30.0, Runtime()),
        engine(0.4, 30.0, Runtime(streams=2)),
        engine(0.45, 10.0, student),
        engine(0.35, 10.0, student, Layout()),
        engine(0.2, 10.0, student, Runtime()),
        Engine(Plan((student, Runtime(streams=2))), "", (), None, failure="no"),
    ]
    assert keep(tried, run()) == [tried[6], tried[5], tried[3], tried[2], tried[1]]
    assert closest(tried[:4]) == tried[1]


def test_what_adds_nothing_certain_is_dropped_and_said_so() -> None:
    eager, plain = engine(1.0, None), engine(0.5, 150.0, Runtime())
    fused = engine(0.49, 140.0, Upsampling(), Runtime(), noise=0.1)  # 2 % faster, 8 % slower, in turn
    quantised = engine(0.3, 40.0, Runtime(), Quantize())
    assert keep([eager, plain, fused, quantised], run()) == [quantised, plain]
    (said,) = refuse_slower(plain.plan, [eager, plain, fused], [])
    assert said.technique == "upsampling"
    assert said.reason == "no faster for certain: 1.02x with it here (0.93 to 1.02, 9 rounds)"
    certain = engine(0.45, 140.0, Upsampling(), Runtime())
    assert certain in keep([eager, plain, certain], run())


def test_a_goal_of_bytes_ranks_by_them_and_a_budget_of_them_holds() -> None:
    small = engine(0.6, 40.0, Runtime(), Quantize(), size=3)
    tried = [engine(1.0, None), engine(0.5, 150.0, Runtime()), small]
    assert keep(tried, run("size"))[0] == small
    assert keep(tried, run(size_bytes=5)) == [small]
    with pytest.raises(
        HastenError, match=r"no plan is within --budget size=2B: the smallest \(OpenVINO float32 \+ int8\)"
    ):
        keep(tried, run(size_bytes=2))


class Timed:
    """A network whose samples take so many seconds by the clock that it drives."""

    def __init__(self, seconds: float, hands: list[int]) -> None:
        self.seconds, self.hands = seconds, hands

    def sample(self, case: Case) -> torch.Tensor:
        self.hands[0] += round(self.seconds * 1e9)
        return case.noise


def test_engines_far_behind_are_left_after_two_rounds_and_none_is_built_twice(tmp_path, monkeypatch) -> None:
    seconds = {
        "PyTorch eager": 0.04,
        "channels last": 0.042,
        "OpenVINO float32": 0.01,
        "OpenVINO float32 + int8": 0.01,
    }
    built: list[str] = []
    hands = [0]

    def make(_self: Run, plan: Plan) -> tuple[Timed, int]:
        built.append(Engine(plan.without("sampler")[0], "", (), None).name)
        return Timed(seconds[built[-1]], hands), 7

    monkeypatch.setattr(Run, "built", make)
    monkeypatch.setattr(Run, "workload", lambda *_: draw((1, 4, 4), 1, 16, 0))
    asked = Run(SOURCE, None, tmp_path, 0.02, 60.0, 16, 0, lambda *_: None, lambda: False)  # type: ignore[arg-type]
    asked.deadline = Deadline(Clock(read_ns=lambda: hands[0], warm=0), 60.0)
    proposals = [
        Proposal(Plan(each), "") for each in ((Layout(),), (Runtime(streams=1),), (Runtime(streams=1), Quantize()))
    ]
    tried = {engine.name: engine for engine in try_engines(asked, proposals)}
    assert sorted(built) == sorted(seconds)
    rounds = {name: len(engine.seconds) for name, engine in tried.items()}
    assert rounds == {"PyTorch eager": 11, "channels last": 2, "OpenVINO float32": 11, "OpenVINO float32 + int8": 11}
    assert tried["OpenVINO float32"].median_seconds == pytest.approx(0.01 / 16 / 2, rel=0.3)
    assert all(engine.weight_bytes == 7 for engine in tried.values())
    assert try_engines(asked, []) == list(tried.values())  # a resumed run has the same
    slower = [
        said
        for said in refuse_slower(tried["OpenVINO float32"].plan, list(tried.values()), [])
        if "channels" in said.label
    ]
    assert slower[0].reason.startswith("slower: ")
