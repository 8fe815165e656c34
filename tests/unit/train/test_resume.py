"""To resume is to go on to the bit: from every step, with every technique, on a network that is no U-Net."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import hasten
from hasten.data.array import Data
from hasten.diffusion import schedule
from hasten.model.source import Source
from hasten.train import loop, recipe

STEPS = 12


class Network(torch.nn.Module):
    """Convolutions, a norm with running statistics, attention's linear layers, dropout and labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.GroupNorm(2, 8), torch.nn.SiLU(), torch.nn.Dropout(0.1), torch.nn.Conv2d(8, 8, 3, padding=1)
            )
            for _ in range(2)
        )
        self.norm = torch.nn.BatchNorm2d(8)
        self.embedding = torch.nn.Embedding(4, 8)
        self.time = torch.nn.Linear(1, 8)
        self.last = torch.nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        told = self.embedding(labels) + self.time((time / 1000.0)[:, None].to(x.dtype))
        for block in self.blocks:
            h = h + block(h) + told[:, :, None, None]
        return self.last(self.norm(h))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(loop.network, "samples_of", lambda *_arguments: torch.zeros(1, 1, 8, 8))
    monkeypatch.setattr(loop, "environment", dict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    torch.set_num_threads(before)


def source() -> Source:
    torch.manual_seed(0)
    return hasten.load(
        Network(), schedule=schedule.cosine(), prediction="v_prediction", shape=(1, 8, 8), num_labels=4, null_label=3
    )


def data() -> Data:
    """44 samples, 40 of them to train on: five batches of 8 an epoch."""
    rng = np.random.default_rng(0)
    held_out = np.arange(44) % 11 == 0
    return Data("made", rng.integers(0, 255, (44, 1, 8, 8), np.uint8), np.arange(44) % 3, ("a", "b", "c"), held_out)


def made(workers: int = 0, **options) -> recipe.Recipe:
    train = {"steps": STEPS, "batch_size": 8, "warmup_steps": 2, "learning_rate": 1e-2, "checkpoint_every": 1}
    about = {"name": "digits", "size": 8, "workers": workers, "shift": options.pop("shift", 0)}
    return recipe.check({"data": about, "train": {**train, **options}}, "", "test")


def train(read: recipe.Recipe, out: Path, resume: bool | Path = False, progress=None) -> None:
    loop.train(read, out, resume, progress, warn=lambda _line: None, source=source(), data=data())


def saved(out: Path, step: int = STEPS) -> tuple[dict[str, torch.Tensor], dict]:
    with safe_open(out / f"checkpoint-{step:07d}.safetensors", "pt") as file:
        numbers = json.loads(file.metadata()["hasten"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for measured in ("trials", "planned"):
        numbers["choices"].pop(measured, None)
    return tensors, numbers


def assert_same_end(a: Path, b: Path) -> None:
    (ours, our_numbers), (theirs, their_numbers) = saved(a), saved(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert our_numbers == their_numbers
    weights = "model/weights.safetensors"
    assert (a / weights).read_bytes() == (b / weights).read_bytes()


def every_checkpoint(monkeypatch, kept: Path) -> None:
    """All checkpoints of a run are linked to ``kept``, before older ones go."""
    kept.mkdir()
    save = loop.state.save

    def keep(*arguments) -> Path:
        path = save(*arguments)
        (kept / path.name).hardlink_to(path)
        return path

    monkeypatch.setattr(loop.state, "save", keep)


def poison(monkeypatch, batches: set[int]) -> None:
    """The loss is NaN in these batches."""
    losses, examples = loop.Training.losses, loop.Training.examples
    now: list[int] = []

    def seen(run, batch):
        now[:] = [batch.number]
        return examples(run, batch)

    def spoiled(run, part):
        wanted, error = losses(run, part)
        return (wanted * torch.nan, error * torch.nan) if now[0] in batches else (wanted, error)

    monkeypatch.setattr(loop.Training, "examples", seen)
    monkeypatch.setattr(loop.Training, "losses", spoiled)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", ["plain", "skipped steps"])
def test_from_every_step(tmp_path, monkeypatch, workers: int, how: str) -> None:
    """Eleven points a run: within epochs, at their edges (5 and 10), and around steps that were skipped."""
    if how == "skipped steps":
        poison(monkeypatch, {3, 4, 9})
    with monkeypatch.context() as patch:
        every_checkpoint(patch, tmp_path / "kept")
        train(made(workers), tmp_path / "straight")
    points = sorted((tmp_path / "kept").iterdir())[:-1]
    assert len(points) == STEPS - 1
    for point in points:
        out = tmp_path / point.stem
        train(made(workers), out, resume=point)
        assert_same_end(out, tmp_path / "straight")
    assert saved(tmp_path / "straight")[1]["skipped"] == (3 if how == "skipped steps" else 0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("part", [2, 9, 19, 30])
def test_from_within_accumulation(tmp_path, monkeypatch, part: int) -> None:
    """The run ends in the midst of a step's four micro-batches; the whole step is done again."""
    read = made(accumulate=4, checkpoint_every=3)
    train(read, tmp_path / "straight")
    losses, count = loop.Training.losses, [0]

    def dying(run, examples):
        count[0] += 1
        if count[0] == 4 * 3 + part:
            raise Killed
        return losses(run, examples)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "losses", dying)
        with pytest.raises(Killed):
            train(read, tmp_path / "out")
    train(read, tmp_path / "out", resume=True)
    assert_same_end(tmp_path / "out", tmp_path / "straight")


TECHNIQUES = {
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "master weights": {"precision": "bfloat16_master"},
    "stochastic rounding": {"precision": "bfloat16_stochastic"},
    "checkpointing": {"checkpointing": "full"},
    "selective": {"checkpointing": ["blocks.1"]},
    "budget": {"memory": "200 KiB"},
    "step in backward": {"step_in_backward": True, "clip_norm": 0.0, "clip_value": 0.1},
    "8-bit": {"optimizer": "adamw_8bit"},
    "muon": {"optimizer": "muon"},
    "schedule-free": {"optimizer": "schedule_free", "learning_rate_schedule": "constant"},
    "z-score": {"clip_norm": 0.0, "clip_zscore": 1.5},
    "parametrized": {"weight_norm": "parametrized"},
    "forced": {"weight_norm": "forced"},
    "forced with masters": {"weight_norm": "forced", "precision": "bfloat16_master"},
    "spikes": {"rewind_spikes": True},
    "learned weights": {"weighting": "learned"},
    "plateau": {"learning_rate_schedule": "plateau", "validate_every": 2, "validate_samples": 16},
    "restarts": {"learning_rate_schedule": "cosine_restarts", "cycle_steps": 3},
    "bf16 average": {"ema_dtype": "bfloat16", "ema_on_host": True},
    "profiles": {"ema_profiles": [0.05, 0.1], "profile_every": 4},
    "autotune": {"autotune": True},
    "augmentation": {"shift": 1, "workers": 2},
    "edm levels": {"levels": "edm", "weighting": "edm"},
}


@pytest.mark.parametrize("name", TECHNIQUES)
def test_with_every_technique(tmp_path, name: str, monkeypatch) -> None:
    if name == "schedule-free":
        pytest.importorskip("schedulefree")
    monkeypatch.setattr(loop.training.autotune, "SECONDS", 0.5)
    monkeypatch.setattr(loop.training.recompute, "grown_bytes", lambda *_: None)  # coarser than this network is large
    read = made(checkpoint_every=5, **TECHNIQUES[name])
    train(read, tmp_path / "straight")

    def kill(shown) -> None:
        if shown.step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(read, tmp_path / "out", progress=kill)
    # autotune's choice is part of the run: what is measured now may be another
    if name == "autotune":
        choice = saved(tmp_path / "out", 5)[1]["choices"]["setting"]
        train(read, tmp_path / "out", resume=True)
        assert saved(tmp_path / "out")[1]["choices"]["setting"] == choice
        return
    train(read, tmp_path / "out", resume=True)
    assert_same_end(tmp_path / "out", tmp_path / "straight")
    assert bool(saved(tmp_path / "out")[1]["choices"].get("checkpointing")) == (name == "budget")
