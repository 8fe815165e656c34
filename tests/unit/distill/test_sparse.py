"""Zeros where they are asked for, kept through recovery, and honest words about speed."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMPipeline

from hasten.cli import cli
from hasten.distill import sparse
from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.train import loop, recipe


@pytest.fixture(scope="module")
def model(tiny_folder) -> sources.Source:
    return sources.load(tiny_folder)


@pytest.mark.parametrize("pattern", ["global", "layer"])
def test_the_share_asked_for_goes_and_it_is_the_least(model, pattern) -> None:
    module = model.module()
    kept = sparse.masks(module, 0.4, pattern)
    weights = {name: dict(module.named_parameters())[name].detach().abs() for name in kept}
    zero = 1 - sum(int(m.sum()) for m in kept.values()) / sum(m.numel() for m in kept.values())
    assert zero == pytest.approx(0.4, abs=0.02)  # ties in float16 weights go together
    if pattern == "global":
        least = min(float(weights[name][mask].min()) for name, mask in kept.items() if mask.any())
        assert all(float(weights[name][~mask].max()) <= least for name, mask in kept.items() if (~mask).any())
    else:
        assert all(
            1 - mask.float().mean() == pytest.approx(0.4, abs=0.1) for mask in kept.values() if mask.numel() > 99
        )


def test_two_of_every_four_inputs() -> None:
    layer = torch.nn.Conv2d(8, 3, 3)
    kept = sparse.masks(layer, 0.5, "2:4")["weight"]
    groups = kept.permute(0, 2, 3, 1).reshape(-1, 4)
    assert bool((groups.sum(1) == 2).all())
    size = layer.weight.detach().abs().permute(0, 2, 3, 1).reshape(-1, 4)
    assert bool((size[groups].reshape(-1, 2).min(1).values >= size[~groups].reshape(-1, 2).max(1).values).all())
    assert bool(sparse.masks(torch.nn.Linear(6, 2), 0.5, "2:4")["weight"].all())


def test_zeros_stay_through_recovery(model, tmp_path) -> None:
    found = sparse.prune(model, 0.5, "global", tmp_path / "sparse")
    before, after = found["compressed"]
    assert after < 0.75 * before
    DDIMPipeline.from_pretrained(tmp_path / "sparse")
    assert sparse.is_sparse(tmp_path / "sparse")
    assert not sparse.is_sparse(model.folder)
    values = {
        "data": {"name": "digits", "size": 8},
        "model": {"folder": str(tmp_path / "sparse")},
        "teacher": {"folder": str(model.folder)},
        "train": {"steps": 3, "batch_size": 16, "warmup_steps": 1, "ema_decay": 0.5, "keep_zeros": True},
    }
    trained = sources.load(loop.train(recipe.check(values, "", "test"), tmp_path / "run")).module().state_dict()
    start = sources.load(tmp_path / "sparse").module().state_dict()
    names = sparse.masks(model.module(), 0.5, "global")
    changed = 0
    for name in names:
        assert bool((trained[name][start[name] == 0] == 0).all())
        changed += int((trained[name] != start[name]).sum())
    assert changed > 1000
    dense = {"block_out_channels": [8, 16], "attention_levels": [1], "attention_head_dim": 8}
    of_dense = recipe.check({"data": values["data"], "model": dense, "train": values["train"]}, "", "test")
    with pytest.raises(BadInput, match=r"train\.keep_zeros: no weight of a layer is zero"):
        loop.train(of_dense, tmp_path / "dense")


def test_the_command_says_what_zeros_are_worth(model, tmp_path, monkeypatch) -> None:
    out = tmp_path / "s"
    found = CliRunner().invoke(cli, ["prune", str(model.folder), "--sparsity", "0.6", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert "60" in found.output.split("zero")[1].split("%")[0]
    assert "smaller)" in found.output
    assert "PyTorch eager" in found.output
    assert "OpenVINO" in found.output
    assert max(map(len, found.output.splitlines())) <= 80 + len(str(out))
    with pytest.raises(BadInput, match=r"of 2:4 it is 0\.5"):
        sparse.prune(model, 0.6, "2:4", tmp_path / "two")
    both = CliRunner().invoke(cli, ["prune", str(model.folder), "--sparsity", "0.6", "--channels", "0.5", "--out", "x"])
    assert isinstance(both.exception, BadInput)
