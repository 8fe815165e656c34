"""What a report says to run again is run here: parsed by the command itself, or executed with its blanks filled in."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch

import hasten
from hasten import cli
from hasten.data.array import Data
from hasten.diffusion import schedule
from hasten.model.source import Source
from hasten.report import page
from hasten.story.stages import again
from hasten.story.stages.run import Limits, Run, Settings
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap


def run_of(source: Source, data: Data | None, out: Path, **other: Any) -> Run:
    limits, settings = Limits("throughput", 0.025), Settings(90.5, 4, 7)
    given = {name: other.pop(name) for name in ("features", "students") if name in other}
    limits, settings = replace(limits, **other), replace(settings, **given)
    return Run(source, data, out, limits, settings, lambda *_: None, lambda: False)


class Plain(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.last(x)


@pytest.fixture(scope="module")
def module() -> Plain:
    torch.manual_seed(0)
    return Plain()


def own(module: Plain) -> Source:
    return hasten.load(module, schedule=schedule.cosine(), prediction="v_prediction", shape=(1, 8, 8), steps=20)


def words_of(line: str) -> list[str]:
    program, command, *words = shlex.split(line)
    assert program == "hasten"
    return [command, *words]


def test_the_command_of_a_folder_asks_for_the_same_run(tiny_folder, tmp_path, monkeypatch) -> None:
    """As the command hands it on, all arguments of the first run come back but for where it goes."""
    source = hasten.load(tiny_folder, steps=20)
    asked_for = {"goal": "size", "memory_bytes": 5e8, "size_bytes": 1234567.0}
    brought = {"features": SimpleNamespace(name="json:loads"), "students": (Swap(str(tiny_folder)),)}
    run = run_of(source, hasten.load_data("digits", 8), tmp_path / "my run", **asked_for, **brought)
    line = again.whole(run)
    asked: dict[str, Any] = {}

    def optimize(source: Source, data: Data, **named: Any) -> dict[str, Any]:
        asked.update(named, source=source, data=data)
        return {"interrupted": False, "passed": True}

    monkeypatch.setattr("hasten.story.optimize.optimize", optimize)
    monkeypatch.setattr("hasten.report.result_text.summary", lambda *_: "done")
    cli.cli.main(words_of(line), standalone_mode=False)
    assert asked["source"].weight_hash == source.weight_hash
    assert (asked["source"].steps, asked["source"].folder) == (20, tiny_folder)
    assert (asked["data"].name, asked["features"].name) == ("digits", "json:loads")
    found = {name: asked[name] for name in ("budget", "memory_bytes", "size_bytes", "seconds", "images_per_case")}
    assert found == {
        "budget": pytest.approx(0.025),
        "memory_bytes": 5e8,
        "size_bytes": 1234567,
        "seconds": 90.5,
        "images_per_case": 4,
    }
    assert (asked["seed"], asked["goal"], list(asked["students"])) == (7, "size", [str(tiny_folder)])
    assert asked["out"] == tmp_path / "my run-again"  # the run's own folder holds its result


def test_numbers_are_as_options_take_them(tiny_folder, tmp_path) -> None:
    source = dataclasses.replace(hasten.load(tiny_folder), guidance=1e-5)
    assert "--guidance 0.00001" in again.plan(run_of(source, None, tmp_path))


def test_the_plan_of_a_folder_is_applied_and_verified(tiny_folder, tmp_path) -> None:
    run = run_of(hasten.load(tiny_folder, steps=7), None, tmp_path / "my run")
    plans.write(Plan((Sampler("ddim", 3),)), run.out / "plan.toml")
    for line in again.plan(run).splitlines():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(click, "echo", lambda *_, **__: None)
            cli.cli.main(words_of(line), standalone_mode=False)
    assert (tmp_path / "my run-faster" / "artifact.json").is_file()


def filled(code: str, **blanks: object) -> dict[str, Any]:
    """What ``code`` leaves, with its blanks filled in."""
    lines = [
        f"{name} = blanks[{name!r}]" if (name := line.partition(" = ")[0]) in blanks else line
        for line in code.splitlines()
    ]
    assert not any("= ..." in line for line in lines)
    space: dict[str, Any] = {"blanks": blanks}
    exec("\n".join(lines), space)
    return space


def test_the_code_of_an_own_module_asks_for_the_same_run(module, tmp_path, monkeypatch) -> None:
    data = Data("mine", np.zeros((5, 1, 8, 8), np.uint8), np.zeros(5, np.int64), ("a",), np.arange(5) == 0)
    run, asked = run_of(own(module), data, tmp_path / "run", memory_bytes=5e8), []
    code = again.whole(run)
    with pytest.raises(TypeError, match="ellipsis"):  # blanks are blanks, no guesses
        exec(code, {})
    monkeypatch.setattr("hasten.story.optimize.optimize", lambda *given, **named: asked.append((given, named)))
    filled(code, module=module, schedule=schedule.cosine(), data=data)
    (source, given), named = asked[0]
    assert dataclasses.replace(source, module=run.source.module, call=run.source.call) == run.source
    assert given is data
    assert named == {
        "out": str(tmp_path / "run-again"),
        "budget": 0.025,
        "goal": "throughput",
        "memory_bytes": 5e8,
        "seconds": 90.5,
        "images_per_case": 4,
        "seed": 7,
    }
    with pytest.raises(AssertionError):
        filled(code, module=Plain(), schedule=schedule.cosine(), data=data)


def test_the_plan_of_an_own_module_is_applied_and_verified(module, tmp_path, capsys) -> None:
    run = run_of(own(module), None, tmp_path / "run")
    plans.write(Plan((Sampler("ddim", 3),)), run.out / "plan.toml")
    filled(again.plan(run), module=module, schedule=schedule.cosine())
    assert "problems=()" in capsys.readouterr().out


def test_optimize_writes_the_report_with_what_can_be_run(module, tmp_path) -> None:
    out = tmp_path / "run"
    found = hasten.optimize(own(module), out=out, seconds=1.0, images_per_case=2)
    text = (out / "report.html").read_text(encoding="utf-8")
    assert page.read_result(out / "result.json").command == found["command"]
    assert "module = ...  # your Plain, with the weights that it had" in text
    compile(found["command"], "command", "exec")
