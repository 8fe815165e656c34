"""Prepared graphs are known by what the network answers, and checked against it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from hasten import artifact
from hasten.diffusion import schedule
from hasten.errors import BadInput, HastenError
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.workload import draw
from hasten.technique.answers import agreement_db
from hasten.technique.compile import Compile
from hasten.technique.plan import Plan, build, prepare
from hasten.technique.runtime import Runtime

RUN = Plan((Runtime(),))


class Small(nn.Module):
    """A convolution and an activation that is no weight."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.last = (
            nn.Conv2d(2, 8, 3, padding=1),
            activation,
            nn.Conv2d(8, 2, 3, padding=1),
        )

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.last(self.activation(self.first(x)) + t[:, None, None, None])


class Experts(Small):
    """Two experts, chosen by noise level."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        clean = super().forward(x, t)
        return clean if float(t.mean()) < 0.6 else -clean


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "cache"))


def loaded(module: nn.Module, **others) -> Source:
    return sources.load(module, schedule=schedule.cosine(), prediction="v_prediction", shape=(2, 8, 8), **others)


def agree(source: Source) -> float:
    case = draw(source.shape, 1, 4, seed=1, labels=source.labels).cases[0]
    wanted, found = source.build().sample(case), build(source, RUN).sample(case)
    return agreement_db(wanted[None], found[None])


def test_the_same_weights_under_another_activation_or_call() -> None:
    assert agree(loaded(Small(nn.ReLU()))) > 60
    assert agree(loaded(Small(nn.Tanh()))) > 60
    assert agree(loaded(Small(nn.ReLU()), call=lambda module, x, time, labels: module(2 * x, time))) > 60
    again = prepare(loaded(Small(nn.Tanh())))
    build(loaded(Small(nn.Tanh())), RUN, again)
    assert again.seconds == 0  # was there already


@pytest.mark.parametrize("key", ["flip_sin_to_cos", "downsample_padding", "attention_head_dim"])
def test_the_same_weights_under_another_configuration(key: str, tiny_folder: Path, tmp_path: Path) -> None:
    assert agree(sources.load(tiny_folder)) > 60
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    path = other / "unet" / "config.json"
    config = json.loads(path.read_text())
    config[key] = {"flip_sin_to_cos": not config["flip_sin_to_cos"], "downsample_padding": 0, "attention_head_dim": 4}[
        key
    ]
    path.write_text(json.dumps(config))
    assert agree(sources.load(other)) > 60


def test_a_branch_on_the_noise_level_is_refused_with_the_figure() -> None:
    with pytest.raises(
        HastenError, match=r"OpenVINO: answers differ from the network's: -?\d+\.\d dB at t=0\.\d+, at least 60"
    ):
        build(loaded(Experts(nn.ReLU())), RUN)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_engine_is_asked_before_it_is_used(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that mistakes the second sample of a batch, or one noise level, is found out by all batches that have it."""
    monkeypatch.setattr("hasten.runtime.inductor.compiled", lambda module: Wrong(module, batch))
    source = loaded(Small(nn.ReLU()))
    with pytest.raises(
        HastenError, match=r"^inductor: answers differ from the network's: .* dB at t=0.75, at least 60"
    ):
        build(source, Plan((Compile(),)), batch=batch)
    monkeypatch.setattr("hasten.runtime.inductor.compiled", lambda module: Wrong(module, batch, float("nan")))
    with pytest.raises(HastenError, match=r"^inductor: .*: -inf dB at t=0.75"):
        build(source, Plan((Compile(),)), batch=batch)
    assert build(source, Plan((Compile(),)), batch=0)  # was asked already


class Wrong(nn.Module):
    """Stands for an engine: its last answer of a batch at one level is another one."""

    def __init__(self, module: nn.Module, batch: int, factor: float = 1.1) -> None:
        super().__init__()
        self.module, self.batch, self.factor = module, batch, factor

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert len(x) == self.batch  # nothing is compiled for another one
        answer = self.module(x, t).clone()
        answer[-1] *= self.factor if 0.7 < float(t[0]) / 1000 < 0.8 else 1.0
        return answer


def test_an_artifact_knows_another_module_of_the_same_weights(tmp_path: Path) -> None:
    build(loaded(Small(nn.ReLU())), RUN)
    artifact.save(tmp_path / "a", loaded(Small(nn.Tanh())), RUN)
    artifact.load(tmp_path / "a", loaded(Small(nn.Tanh())))
    with pytest.raises(BadInput, match="answers otherwise"):
        artifact.load(tmp_path / "a", loaded(Small(nn.ReLU())))


@pytest.mark.parametrize("content", [b"", b"a=[", b"\x08" + bytes(20), b"\x02" + bytes(7) + b"{}", b"<?xml "])
@pytest.mark.parametrize("file", ["answers*/answers.safetensors", "*/*.xml"])
def test_what_was_prepared_and_then_changed_is_refused(
    file: str, content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    artifact.save(tmp_path / "a", loaded(Small(nn.Tanh())), RUN)
    (path,) = (tmp_path / "a" / "prepared").glob(file)
    path.write_bytes(content)
    source = loaded(Small(nn.Tanh()))
    with pytest.raises(BadInput, match="make the artifact again"):
        artifact.load(tmp_path / "a", source)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_pipe_in_a_graphs_place_is_not_waited_for(suffix: str, tmp_path: Path) -> None:
    artifact.save(tmp_path / "a", loaded(Small(nn.Tanh())), RUN)
    (path,) = (tmp_path / "a" / "prepared").glob(f"*/*{suffix}")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadInput, match="missing or no file"):
        artifact.load(tmp_path / "a", loaded(Small(nn.Tanh())))


def test_what_is_prepared_can_be_read_by_others(tmp_path: Path) -> None:
    build(loaded(Small(nn.ReLU())), RUN)
    for path in (tmp_path / "cache" / "prepared").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o055 == 0o055 & ~_umask()


def _umask() -> int:
    from hasten.files import umask

    return umask()


def test_an_answer_of_another_shape_is_refused() -> None:
    class Mean(Small):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return super().forward(x, t).mean(1, keepdim=True)

    with pytest.raises(HastenError, match="the shapes must be equal"):
        build(loaded(Mean(nn.ReLU())), RUN)
