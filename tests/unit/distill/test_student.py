"""Pruned folders load with plain diffusers, students learn from their teacher, and what can't be said is refused."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline, UNet2DModel

from hasten.cli import cli
from hasten.data import digits
from hasten.distill import sparse, student
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.train import log, loop, recipe, rehearsal


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> sources.Source:
    """A digits model that has learnt something."""
    values = {
        "data": {"name": "digits", "size": 8},
        "model": {"block_out_channels": [32, 64], "attention_levels": [1], "attention_head_dim": 32},
        "train": {"steps": 30, "batch_size": 32, "warmup_steps": 5, "ema_decay": 0.9, "learning_rate": 4e-3},
    }
    return sources.load(loop.train(recipe.check(values, "", "test"), tmp_path_factory.mktemp("teacher") / "run"))


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(student, "TAYLOR_BATCHES", 2)


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_pruned_folder_is_an_ordinary_one(teacher, tmp_path, importance) -> None:
    config = student.prune(teacher, 0.5, importance, digits.load(8), tmp_path / "pruned")
    assert config["block_out_channels"] == [16, 32]
    DDIMPipeline.from_pretrained(tmp_path / "pruned")
    plain = UNet2DModel.from_pretrained(tmp_path / "pruned" / "unet")
    found = sources.load(tmp_path / "pruned")
    assert (found.num_labels, found.null_label, found.label_names) == (11, 10, teacher.label_names)
    x, time, labels = torch.randn(2, 1, 8, 8), torch.tensor([5.0, 900.0]), torch.tensor([1, 2])
    with torch.no_grad():
        assert torch.equal(plain(x, time, labels).sample, found.call(found.module(), x, time, labels))
    said = json.loads((tmp_path / "pruned" / "hasten.json").read_text())["pruned"]
    assert said == {"from": teacher.name, "weights": teacher.weight_hash, "importance": importance}


def test_taylor_keeps_more_of_what_matters_than_the_worst_choice(teacher) -> None:
    """The loss after pruning half of the channels: the most important kept against the least."""
    data = digits.load(8)
    network = teacher.module().float()
    scores = student.taylor(teacher, network, data)
    losses = {}
    for name, sign in (("best", 1.0), ("worst", -1.0)):
        made = student.pruned(
            network,
            student.smaller(dict(network.config), 0.75),
            lambda tensor, dim, sign=sign: sign * scores(tensor, dim),
            torch.linspace(0.0, 999.0, 100),
        )
        part = student.Objective(teacher.schedule, teacher.prediction).draw(
            *(torch.from_numpy(each[:128]) for each in data.part(held_out=True)), torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            losses[name] = part.errors(teacher.call(made, part.x, part.time, part.labels)).mean().item()
    assert math.isfinite(losses["best"])
    assert losses["best"] < losses["worst"]


def test_a_student_learns_and_says_how(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rehearsal, "measure", lambda _read: rehearsal.Measured(1, 1, 0.1))
    out = tmp_path / "run"
    folder = student.distill(teacher, "channels=0.5", student.Lessons("digits", 3.0, 32), out)
    read = recipe.read(out / "recipe.toml")
    assert read.train.steps == 27
    assert read.teacher is not None
    assert read.teacher.folder == str(teacher.folder)
    losses = [line["loss"] for line in log.read(out / "metrics.jsonl") if "event" not in line]
    assert losses[-1] < losses[0]
    assert UNet2DModel.from_pretrained(folder / "unet").config["block_out_channels"] == [16, 32]
    with pytest.raises(BadInput, match=r"holds a run; resume it, or choose another folder"):
        student.distill(teacher, "channels=0.5", student.Lessons("digits", 3.0), out)


def test_kept_answers_have_room_for_more_steps(teacher, tmp_path, monkeypatch) -> None:
    seconds = {50: 1.0, 1: 0.25}
    monkeypatch.setattr(rehearsal, "measure", lambda read: rehearsal.Measured(1, 1, seconds[read.teacher.cached]))
    made = student.recipe_of(teacher, teacher.folder, student.Lessons("digits", 100.0, 32, cached=50))
    assert (made.train.steps, made.teacher.cached) == (50 + 160, 50)


def test_too_little_time_is_said_with_what_a_step_takes(teacher, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rehearsal, "measure", lambda _read: rehearsal.Measured(1, 1, 2.0))
    with pytest.raises(BadInput, match=r"a time of 10 s has room for 4 steps of 2 s; give time for 20 or more"):
        student.distill(teacher, "channels=0.5", student.Lessons("digits", 10.0), tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("channels=2", "the share of channels must be over 0 and under 1"),
        ("channels=half", "the share of channels must be over 0 and under 1"),
        ("nowhere.json", "no file or folder; give channels=0.5, a config.json or a model folder"),
    ],
)
def test_students_that_can_not_be(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        student.asked(text)


def test_a_config_of_ones_own(teacher, tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"block_out_channels": [16, 32], "attention_head_dim": 16, "time_embedding_dim": 128}))
    student.prune(teacher, path, "magnitude", None, tmp_path / "pruned")
    made = UNet2DModel.from_pretrained(tmp_path / "pruned" / "unet")
    assert (made.config["block_out_channels"], made.config["attention_head_dim"]) == ([16, 32], 16)
    path.write_text(json.dumps({"block_out_channels": [16, 30]}))
    with pytest.raises(BadInput, match="block_out_channels 30 is no multiple of norm_num_groups 8"):
        student.prune(teacher, path, "magnitude", None, tmp_path / "other")


def test_from_the_command_line(teacher, tmp_path) -> None:
    arguments = ["prune", str(teacher.folder), "--channels", "0.5", "--importance", "magnitude"]
    told = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "pruned")], catch_exceptions=False)
    assert "channels    [16, 32]" in told.output
    refused = CliRunner().invoke(cli, [*arguments[:4], "--out", str(tmp_path / "other")])
    assert isinstance(refused.exception, BadInput)
    assert "importance by taylor needs data" in str(refused.exception)


def test_a_pruning_that_fails_leaves_nothing(teacher, tmp_path, monkeypatch) -> None:
    def fail(*_arguments, **_options):
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("hasten.model.folder.write_bytes", fail)
        with pytest.raises(OSError, match="no room"):
            student.prune(teacher, 0.5, "magnitude", None, tmp_path / "pruned")
        with pytest.raises(OSError, match="no room"):
            sparse.prune(teacher, 0.5, "global", tmp_path / "pruned")
    assert list(tmp_path.iterdir()) == []
    student.prune(teacher, 0.5, "magnitude", None, tmp_path / "pruned")
    sources.load(tmp_path / "pruned")


def test_a_share_that_prunes_nothing_names_the_groups(teacher, tmp_path) -> None:
    with pytest.raises(BadInput, match="norm_num_groups = 8"):
        student.prune(teacher, 0.99, "magnitude", None, tmp_path / "pruned")


def test_what_is_no_student_of_ours_is_not_removed(teacher, tmp_path) -> None:
    kept = tmp_path / "student" / "checkpoint-0000010.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(b"an earlier run")
    with pytest.raises(BadInput, match="no student of"):
        student.distill(teacher, "channels=0.5", student.Lessons("digits", 60.0), tmp_path)
    assert kept.read_bytes() == b"an earlier run"
