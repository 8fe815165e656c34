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
from hasten.story.stages.keeping import keep, refuse_slower
from hasten.story.stages.run import Limits, Run, Settings
from hasten.story.stages.trying import try_ways
from hasten.story.stages.ways import Way, closest, kept_in
from hasten.technique.contract import Technique
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling

SOURCE = SimpleNamespace(name="model", device="cpu")


def way(seconds: float, drift_db: float | None, *techniques: Technique, size: int = 10, noise: float = 0.0) -> Way:
    """Nine rounds of about ``seconds``, every second one ``noise`` longer."""
    rounds = tuple(seconds * (1 + noise * (n % 2)) for n in range(9))
    return Way(Plan(techniques), "", rounds, drift_db, weight_bytes=size)


def test_ways_of_a_run_are_read_as_they_were_written_and_nothing_else(tmp_path: Path) -> None:
    path, tried = tmp_path / "ways.json", [way(1.0, None), way(0.5, 60.0, Layout())]
    path.write_text(json.dumps([each.to_json() for each in tried]) + "\n")
    assert kept_in(path) == tried
    row = tried[1].to_json()
    for odd in ("[]", "{", "\udc80", "[" * 100_000, *(json.dumps([row | wrong]) for wrong in ODD)):
        path.write_bytes(odd.encode("utf-8", "surrogateescape"))
        with pytest.raises(BadInput, match=r"ways\.json"):
            kept_in(path)


ODD = (
    {"plan": 1}, {"plan": [{"technique": "x"}]}, {"seconds": "x"}, {"seconds": [-1]}, {"seconds": [float("nan")]},
    {"drift_db": "x"}, {"more": 1}, {"weight_bytes": 1.5}, {"reason": None},
)  # fmt: skip


def run(goal: str = "throughput", size_bytes: float | None = None) -> Run:
    return run_in(Path("out"), Limits(goal, size_bytes=size_bytes))


def run_in(out: Path, limits: Limits = Limits()) -> Run:  # noqa: B008
    return Run(SOURCE, None, out, limits, Settings(60.0), lambda *_: None, lambda: False)  # type: ignore[arg-type]


def test_the_fastest_ways_of_each_network_and_the_closest_are_kept() -> None:
    student = Swap("student", weights="0123")
    tried = [
        way(1.0, None),
        way(0.9, 150.0, Layout()),
        way(0.5, 30.0, Runtime()),
        way(0.4, 30.0, Runtime(streams=2)),
        way(0.45, 10.0, student),
        way(0.35, 10.0, student, Layout()),
        way(0.2, 10.0, student, Runtime()),
        Way(Plan((student, Runtime(streams=2))), "", (), None, failure="no"),
    ]
    assert keep(tried, run()) == [tried[6], tried[5], tried[3], tried[2], tried[1]]
    assert closest(tried[:4]) == tried[1]


def test_what_adds_nothing_certain_is_dropped_and_said_so() -> None:
    eager, plain = way(1.0, None), way(0.5, 150.0, Runtime())
    fused = way(0.49, 140.0, Upsampling(), Runtime(), noise=0.1)  # 2 % faster, 8 % slower, in turn
    quantised = way(0.3, 40.0, Runtime(), Quantize())
    assert keep([eager, plain, fused, quantised], run()) == [quantised, plain]
    (said,) = refuse_slower(plain.plan, [eager, plain, fused], [])
    assert said.technique == "upsampling"
    assert said.reason == "no faster for certain: 1.02x with it here (0.93 to 1.02, 9 rounds)"
    certain = way(0.45, 140.0, Upsampling(), Runtime())
    assert certain in keep([eager, plain, certain], run())


def test_a_goal_of_bytes_ranks_by_them_and_a_budget_of_them_holds() -> None:
    small = way(0.6, 40.0, Runtime(), Quantize(), size=3)
    tried = [way(1.0, None), way(0.5, 150.0, Runtime()), small]
    assert keep(tried, run("size"))[0] == small
    assert keep(tried, run(size_bytes=5)) == [small]
    with pytest.raises(HastenError, match=r"no plan is within a size of 2B: the smallest \(OpenVINO float32 \+ int8\)"):
        keep(tried, run(size_bytes=2))


class Timed:
    """A network whose samples take so many seconds by the clock that it drives."""

    def __init__(self, seconds: float, hands: list[int]) -> None:
        self.seconds, self.hands = seconds, hands

    def sample(self, case: Case) -> torch.Tensor:
        self.hands[0] += round(self.seconds * 1e9)
        return case.noise


def test_ways_far_behind_are_left_after_two_rounds_and_none_is_built_twice(tmp_path, monkeypatch) -> None:
    seconds = {
        "PyTorch eager": 0.04,
        "channels last": 0.042,
        "OpenVINO float32": 0.01,
        "OpenVINO float32 + int8": 0.01,
    }
    built: list[str] = []
    hands = [0]

    def make(_self: Run, plan: Plan) -> tuple[Timed, int]:
        built.append(Way(plan.without("sampler")[0], "", (), None).label)
        return Timed(seconds[built[-1]], hands), 7

    monkeypatch.setattr(Run, "built", make)
    monkeypatch.setattr(Run, "workload", lambda *_: draw((1, 4, 4), 1, 16, 0))
    asked = run_in(tmp_path)
    asked.deadline = Deadline(Clock(read_ns=lambda: hands[0], warm=0), 60.0)
    proposals = [
        Proposal(Plan(each), "") for each in ((Layout(),), (Runtime(streams=1),), (Runtime(streams=1), Quantize()))
    ]
    tried = {way.label: way for way in try_ways(asked, proposals)}
    assert sorted(built) == sorted(seconds)
    rounds = {name: len(way.seconds) for name, way in tried.items()}
    assert rounds == {"PyTorch eager": 11, "channels last": 2, "OpenVINO float32": 11, "OpenVINO float32 + int8": 11}
    assert tried["OpenVINO float32"].median_seconds == pytest.approx(0.01 / 16 / 2, rel=0.3)
    assert all(way.weight_bytes == 7 for way in tried.values())
    assert try_ways(asked, []) == list(tried.values())  # a resumed run has the same
    slower = [
        said
        for said in refuse_slower(tried["OpenVINO float32"].plan, list(tried.values()), [])
        if "channels" in said.label
    ]
    assert slower[0].reason.startswith("slower: ")


def test_ways_with_one_label_are_two(tmp_path, monkeypatch) -> None:
    """A label hides settings: students in folders of the same names are different networks."""
    students = [Swap(str(tmp_path / where / "small" / "model"), weights=where) for where in ("a", "b")]
    assert students[0].label == students[1].label
    hands, asked = [0], run_in(tmp_path)
    monkeypatch.setattr(Run, "built", lambda *_: (Timed(0.01, hands), 7))
    monkeypatch.setattr(Run, "workload", lambda *_: draw((1, 4, 4), 1, 16, 0))
    asked.deadline = Deadline(Clock(read_ns=lambda: hands[0], warm=0), 60.0)
    tried = try_ways(asked, [Proposal(Plan((student,)), "") for student in students])
    assert [way.plan for way in tried] == [Plan(), *(Plan((student,)) for student in students)]
    assert len({way.hash for way in tried}) == 3
    assert all(way.seconds for way in tried)
