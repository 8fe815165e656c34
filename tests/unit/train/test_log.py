"""A run's figures as lines: means, what a kill leaves, and what resuming drops."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from hasten.errors import BadInput
from hasten.report import train_text
from hasten.train import log
from hasten.train.log import Figures, Log, Shown


def figures(step: int, **values) -> Figures:
    plain = {
        "batch": step - 1,
        "loss": 1.0 / step,
        "gradient_norm": 2.0,
        "clip_scale": 0.5,
        "learning_rate": 1e-3 * step,
        "samples": 8,
        "seconds": 0.5,
        "waited_seconds": 0.05,
        "phases": {"data": 0.05, "forward": 0.25},
        "skipped": 0,
    }
    return Figures(step=step, **{**plain, **values})


def written(folder: Path, steps: range, every: int = 2, checkpoints: tuple[int, ...] = ()) -> list[dict]:
    made = Log(folder, 100, every, "cpu")
    if steps.start > 1:
        made.resume_(steps.start - 1)
    for step in steps:
        made.step(figures(step))
        if step in checkpoints:
            made.flush()
            made.event("checkpoint", step, step, seconds=0.25)
    made.close()
    return log.read(folder / "metrics.jsonl")


def test_a_line_is_the_mean_of_its_steps(tmp_path) -> None:
    lines = written(tmp_path, range(1, 6))
    assert [line["step"] for line in lines] == [2, 4, 5]
    first = lines[0]
    assert first["loss"] == pytest.approx((1 + 1 / 2) / 2)
    assert first["images_per_second"] == pytest.approx(16)
    assert first["stall"] == pytest.approx(0.1)
    assert first["learning_rate"] == 2e-3
    assert first["phases"] == {"data": pytest.approx(0.1), "forward": pytest.approx(0.5)}
    assert 1e6 < first["memory_bytes"] <= first["peak_bytes"]
    assert first["batch"] == 1


def test_what_an_event_took_is_a_phase_of_the_next_line(tmp_path) -> None:
    lines = written(tmp_path, range(1, 5), checkpoints=(2,))
    assert [line.get("event") for line in lines] == [None, "checkpoint", None]
    assert lines[1]["took_seconds"] == 0.25
    assert lines[2]["phases"]["checkpoint"] == 0.25
    assert "checkpoint" not in lines[0]["phases"]


def test_what_is_not_finite_is_null_and_the_line_is_json(tmp_path) -> None:
    made = Log(tmp_path, 10, 1, "cpu")
    made.step(figures(1, loss=math.nan, gradient_norm=math.inf))
    made.event("validation", 1, 1, losses={"0.1": math.nan}, ids=[1, 2])
    made.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    first, second = log.read(tmp_path / "metrics.jsonl")
    assert (first["loss"], first["gradient_norm"]) == (None, None)
    assert second["losses"] == {"0.1": None}


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path) -> None:
    written(tmp_path, range(1, 8), checkpoints=(4,))
    made = Log(tmp_path, 100, 2, "cpu")
    made.event("skipped", 4, 4, what="the loss")
    made.close()
    lines = written(tmp_path, range(5, 9), checkpoints=(8,))
    assert [(line["step"], line.get("event")) for line in lines] == [
        (2, None), (4, None), (4, "checkpoint"), (6, None), (8, None), (8, "checkpoint"),
    ]  # fmt: skip
    assert lines[-1]["seconds"] >= lines[1]["seconds"]


def test_resuming_where_the_checkpoint_s_own_line_is_missing(tmp_path) -> None:
    written(tmp_path, range(1, 7))
    made = Log(tmp_path, 100, 2, "cpu")
    made.event("skipped", 4, 4, what="the loss")
    made.resume_(4)
    made.close()
    assert [line["step"] for line in log.read(tmp_path / "metrics.jsonl")] == [2, 4]


@pytest.mark.parametrize("content", [b"\xa5\n", b"[" * 100_000 + b"\n", b'{"step": 1e999}\n', b"0" * (1 << 20)])
def test_what_is_no_line_of_a_run(content: bytes, tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="restore the file"):
        log.read(path)


def test_a_torn_last_line_is_left_out_and_another_one_is_named(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    written(tmp_path, range(1, 5))
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [line["step"] for line in log.read(path)] == [2]
    path.write_text("torn\n" + whole)
    with pytest.raises(BadInput, match=r"metrics.jsonl, line 1: no figures of a run"):
        log.read(path)
    assert log.read(tmp_path / "none.jsonl") == []


def test_seconds_go_on_over_a_resumption(tmp_path, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    made = Log(tmp_path, 10, 1, "cpu")
    now[0] = 107.0
    made.step(figures(1))
    made.close()
    made = Log(tmp_path, 10, 1, "cpu")
    made.resume_(1)
    now[0] = 110.0
    made.step(figures(2))
    made.close()
    assert [line["seconds"] for line in log.read(tmp_path / "metrics.jsonl")] == [7.0, 10.0]


def test_what_the_terminal_shows(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    made = Log(tmp_path, 100, 10, "cpu")
    for step in range(1, 11):
        now[0] += 0.75  # a quarter of a second between steps of half a second
        shown = made.step(figures(step))
    made.close()
    assert shown.loss == pytest.approx(sum(1 / step for step in range(1, 11)) / 10)
    assert shown.images_per_second == pytest.approx(16)
    assert shown.stall == pytest.approx(0.1)
    assert shown.seconds_left == pytest.approx(90 * 0.75, rel=0.05)


@pytest.mark.parametrize(
    "shown",
    [
        Shown(1, 10, 1.0, 0.5, 0.0, 2**20, 0.1, 1e-5, 3.0),
        Shown(1_234_567, 9_999_999, 12345.678, 123456.0, 1.0, 99 * 2**30, 123456.0, 1e-3, 432_000.0),
    ],
)
def test_two_lines_of_80_columns(shown: Shown) -> None:
    lines = train_text.training_lines(shown).splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 80
    assert f"{shown.step:,} of {shown.steps:,}" in lines[0]


def test_tensorboard_gets_the_same_figures(tmp_path) -> None:
    made = Log(tmp_path, 10, 1, "cpu", tensorboard=True)
    made.step(figures(1))
    made.event("validation", 1, 1, loss=0.25, distance=None)
    made.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Scalars("train/loss")[0].value == 1.0
    assert found.Scalars("validation/loss")[0].value == 0.25


def test_lines_are_read_without_torch(tmp_path) -> None:
    written(tmp_path, range(1, 3))
    code = (
        "import sys; from pathlib import Path; from hasten.train import log;"
        f"print(len(log.read(Path({str(tmp_path / 'metrics.jsonl')!r}))), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(said.split()[0]) == 1
    assert said.split()[1] == "False"
