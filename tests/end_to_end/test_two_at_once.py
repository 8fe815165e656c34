"""Commands that write: who has a folder already, what a failed one leaves, and what they say on the way."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hasten import guard, subject
from hasten.commands import sampling
from hasten.report import terminal
from hasten.story import profile
from tests.command_line import hasten

PRUNE = ("prune", "MODEL", "--importance", "magnitude", "--channels", "0.5", "--out", "OUT")


@pytest.mark.parametrize(
    ("hold", "arguments"),
    [
        (guard.claimed, PRUNE),
        (guard.claimed, ("prune", "MODEL", "--sparsity", "0.5", "--out", "OUT")),
        (guard.claimed, ("prune", "MODEL", "--blocks", "1", "--data", "digits", "--out", "OUT")),
        (guard.claimed, ("apply", "plan.toml", "MODEL", "--out", "OUT")),
        (guard.claimed, ("sample", "MODEL", "-n", "1", "--out", "OUT.png")),
        (guard.claimed, ("compare", "MODEL", "MODEL", "--out", "OUT.json")),
        (guard.holding, ("distill", "MODEL", "--student", "channels=0.5", "--data", "digits", "--out", "OUT")),
        (guard.holding, ("optimize", "MODEL", "--out", "OUT")),
        (guard.holding, ("profile", "MODEL", "--what", "steps", "--batch", "1", "--out", "OUT")),
        (guard.holding, ("train", "recipe.toml", "--out", "OUT")),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value),
)
def test_the_second_of_two_is_told_who_has_the_place(
    hold: Callable[[Path], AbstractContextManager[object]],
    arguments: tuple[str, ...],
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text('[[techniques]]\ntechnique = "layout"\n')
    (tmp_path / "recipe.toml").write_text(
        '[data]\nname = "digits"\nsize = 8\n[model]\nblock_out_channels = [8]\nattention_head_dim = 8\n'
        "[train]\nsteps = 2\nwarmup_steps = 1\n"
    )
    named = {"MODEL": str(tiny_folder)}
    words = [named.get(each, each.replace("OUT", "out")) for each in arguments]
    with hold(Path(words[-1])):
        assert hasten(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {words[-1]} is in use by process {os.getpid()} on ")
    if hold is guard.claimed:
        assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.toml", "recipe.toml"]


def test_a_prune_that_failed_is_in_nobodys_way(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", tiny_folder, "--sparsity", "0.5", "--out", tmp_path / "out")
    for place in ("hasten.distill.sparse.speeds", "hasten.distill.sparse.save_folder"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: Path("nowhere").stat())
            assert hasten(*words) == 2
        assert list(tmp_path.iterdir()) == []
    named = {"MODEL": tiny_folder, "OUT": tmp_path / "out"}
    assert hasten(*(named.get(word, word) for word in PRUNE)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_sample_tells_each_evaluation(tiny_folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "x.png"
    tell = terminal.counted(lambda phase, detail, left: told.append(detail), "sample")
    sampling.sample(subject.read(tiny_folder, steps=5), 3, out, None, 2, 0, tell)
    assert out.exists()
    assert [line.split("  ", 1)[1] for line in told] == [
        f"{n} of 10  evaluations, for {0 if n < 5 else 2} of 3 samples" for n in range(10)
    ]


def test_a_profile_tells_its_parts(tiny_folder: Path) -> None:
    told: list[str] = []
    profile.profile(tiny_folder, what="steps", images=1, progress=lambda phase, detail, left: told.append(detail))
    parts = ["the model", "this machine's peaks", "first evaluations", "steps"]
    assert [line.split("  ", 1)[1] for line in told] == [f"{n} of 4  {part}" for n, part in enumerate(parts)]


def test_a_bar_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 11.0, 13.0])
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: next(now))
    told: list[tuple[str, str, float]] = []
    tell = terminal.counted(lambda *line: told.append(line), "prune")
    tell("what", 0, 4)
    tell("what", 1, 4)
    assert told == [("prune", "─" * 20 + "  0 of 4  what", 0.0), ("prune", "━" * 5 + "─" * 15 + "  1 of 4  what", 3.0)]
