"""Modules of one's own as people have them: loaded, sampled and engines made of them, or refused in one line."""

from __future__ import annotations

import threading
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.utils import BaseOutput
from torch import nn

from hasten.diffusion import schedule
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.source import Source
from hasten.model.workload import draw
from hasten.technique.answers import agreement_db
from hasten.technique.plan import Plan, build
from hasten.technique.runtime import Runtime

Pair = namedtuple("Pair", "hidden sample")


@dataclass
class Plain:
    hidden: torch.Tensor
    sample: torch.Tensor


@dataclass
class Theirs(BaseOutput):
    sample: torch.Tensor


class Own(nn.Module):
    """A convolution over the sample and the time, answered as ``answer`` has it."""

    def __init__(self, answer: Any = None, out: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.answer = nn.Conv2d(3, out, 3, padding=1), answer

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> Any:
        made = self.conv(x) + (t[:, None, None, None] * 0.001).cos()
        return made if self.answer is None else self.answer(made)


class Embedded(Own):
    """Integer time, as of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.times = nn.Embedding(1000, 3)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.times(t)[:, :, None, None]


class Normed(Own):
    """Old-style weight_norm and spectral_norm, whose weights are no leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.weight_norm(self.conv)
        self.last = nn.utils.spectral_norm(nn.Conv2d(3, 3, 1))
        self(torch.randn(2, 3, 8, 8), torch.ones(2))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.last(super().forward(x, t))


class Tied(Own):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(3, 3, 3, padding=1)
        self.again.weight = self.conv.weight

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.again(super().forward(x, t))


class Plus(Own):
    """In float64 within."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return super().forward(x, t).double() * 0.5


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "cache"))


def loaded(module: nn.Module, **others: Any) -> Source:
    given = {"schedule": schedule.linear(), "prediction": "epsilon", "shape": (3, 8, 8), "steps": 5} | others
    return sources.load(module, **given)


def refusal(module: nn.Module, **others: Any) -> str:
    with pytest.raises(BadInput) as caught:
        loaded(module, **others)
    text = str(caught.value)
    assert "\n" not in text
    return text


def samples(source: Source, plan: Plan | None = None) -> torch.Tensor:
    case = draw(source.shape, 1, 2, seed=3, labels=source.labels).cases[0]
    return build(source, plan).sample(case) if plan else source.build().sample(case)


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: (y,),
        lambda y: [y, y * 0],
        lambda y: (None, y),
        lambda y: {"sample": y, "other": y * 0},
        lambda y: {"x": y, "more": None},
        lambda y: Pair(y * 0, y),
        lambda y: Plain(y * 0, y),
        lambda y: Theirs(sample=y),
        lambda y: y.double(),
        lambda y: {"sample": y.double()},
    ],
    ids=["tuple", "list", "none first", "dict", "alone", "named", "dataclass", "diffusers", "float64", "both"],
)
def test_answers_of_any_kind(answer: Any) -> None:
    assert torch.equal(samples(loaded(Own(answer))), samples(loaded(Own())))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda y: {"a": y, "b": y}, "a dict of 2 tensors (a, b), none called sample; pass call="),
        (lambda y: None, "a NoneType of no tensor"),
        (lambda y: (1, 2), "a tuple of no tensor"),
        (lambda y: y[:, :1], "Own answers (2, 1, 8, 8) to inputs (2, 3, 8, 8), and the shapes must be equal"),
        (lambda y: y.mean(), "Own answers () to inputs (2, 3, 8, 8)"),
        (lambda y: y.long(), "Own answers torch.int64, and floats are needed"),
        (lambda y: y.reshape(1, 3, 5), "Own can't be asked with x (2, 3, 8, 8), time (2,) (shape '[1, 3, 5]' is inv"),
    ],
)
def test_answers_that_are_none_are_refused_at_load(answer: Any, words: str) -> None:
    assert words in refusal(Own(answer))


def test_what_a_call_of_ones_own_answers_is_checked_too() -> None:
    assert "(2, 1, 8, 8)" in refusal(Own(), call=lambda module, x, time, labels: module(x, time)[:, :1])
    found = samples(loaded(Own(lambda y: {"a": y, "b": y}), call=lambda module, x, time, labels: module(x, time)["a"]))
    assert torch.equal(found, samples(loaded(Own())))


def test_a_shape_that_the_module_does_not_take_is_refused_at_load() -> None:
    assert "Own can't be asked with x (2, 4, 8, 8), time (2,)" in refusal(Own(), shape=(4, 8, 8))
    assert "labels (2,)" in refusal(Own(), num_labels=4)


def test_time_as_whole_numbers() -> None:
    source = loaded(Embedded())
    module, sample, target = Embedded(), torch.randn(2, 3, 8, 8), source.build()
    for t in (0.1, 0.5, 1.0):
        told = torch.full((2,), round(1000 * t) - 1)
        wanted = (sample - source.schedule.sigma(t).item() * module(sample, told)) / source.schedule.alpha(t).item()
        assert torch.allclose(target.denoise(sample, t), wanted, rtol=1e-4, atol=1e-4)
    assert agreement_db(samples(source)[None], samples(source, Plan((Runtime(),)))[None]) > 60


def test_time_as_whole_numbers_needs_a_schedule_that_has_them() -> None:
    assert "pass a discrete one" in refusal(Embedded(), schedule=schedule.flow(), prediction="flow")
    assert "time (2,) in whole numbers (index out of range in self)" in refusal(
        Embedded(), schedule=schedule.linear(2000)
    )


@pytest.mark.parametrize("kind", [Normed, Tied, Plus])
def test_engines_of_modules_as_people_have_them(kind: type[Own]) -> None:
    module = kind().eval()
    source = loaded(module)
    x, t = torch.randn(2, 3, 8, 8), torch.full((2,), 400.0)
    with torch.no_grad():
        assert torch.allclose(source.call(source.build().module, x, t, None), module(x, t).float(), atol=1e-6)
    wanted = samples(source)
    assert wanted.isfinite().all()
    assert agreement_db(wanted[None], samples(source, Plan((Runtime(),)))[None]) > 60


def test_norms_stay_as_they_are_for_training_and_are_folded_for_sampling() -> None:
    source = loaded(Normed())
    assert set(source.module().state_dict()) == set(Normed().state_dict())
    assert {name for name, _ in source.build().module.named_parameters()} == {
        "conv.weight",
        "conv.bias",
        "last.weight",
        "last.bias",
    }
    network = source.module().train()
    source.call(network, torch.randn(2, 3, 8, 8), torch.ones(2), None).sum().backward()
    assert network.conv.weight_g.grad is not None
    assert loaded(Normed()).weight_hash == source.weight_hash


def test_what_can_not_be_copied_is_refused() -> None:
    module = Own()
    module.lock = threading.Lock()
    assert "Own can't be copied" in refusal(module)


def unet(**changes: Any) -> UNet2DModel:
    torch.manual_seed(0)
    config = {"sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(**config, **blocks, attention_head_dim=8, **changes).eval()


def test_a_unet_in_memory_is_the_same_as_its_folder(tmp_path: Path) -> None:
    network = unet(num_class_embeds=4)
    network.save_pretrained(tmp_path)
    DDIMScheduler(clip_sample=False).save_pretrained(tmp_path)
    folder = sources.load(tmp_path)
    own = sources.load(network, schedule=schedule.linear(), prediction="epsilon")
    assert (own.shape, own.num_labels) == (folder.shape, folder.num_labels) == ((3, 8, 8), 4)
    x, t, labels = torch.randn(2, 3, 8, 8), 0.4, torch.tensor([1, 3])
    assert torch.equal(own.build().denoise(x, t, labels), folder.build().denoise(x, t, labels))


def test_a_unet_in_memory_that_predicts_a_variance_too() -> None:
    network = unet(out_channels=6)
    own = sources.load(network, schedule=schedule.linear(), prediction="epsilon", steps=5)
    x, t = torch.randn(2, 3, 8, 8), torch.full((2,), 400.0)
    with torch.no_grad():
        assert torch.equal(own.call(own.build().module, x, t, None), network(x, t).sample[:, :3])
    assert "UNet2DModel answers (2, 4, 8, 8) to inputs (2, 3, 8, 8)" in refusal(unet(out_channels=4))
