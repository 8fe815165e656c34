"""Averages of other lengths after training: the model is written, and nonsense is told what to do."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hasten.errors import BadInput
from hasten.train import loop, recipe
from hasten.train.reaverage import reaverage


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Twelve steps with two profiles kept every third."""
    out = tmp_path_factory.mktemp("run") / "run"
    model = {"block_out_channels": [8, 16], "attention_levels": [1], "attention_head_dim": 8, "norm_num_groups": 4}
    train = {
        "steps": 12, "batch_size": 8, "warmup_steps": 2, "learning_rate": 1e-2, "validate_samples": 16,
        "ema_profiles": [0.05, 0.1], "profile_every": 3, "sample_every": 100,
    }  # fmt: skip
    read = recipe.check({"data": {"name": "digits", "size": 8}, "model": model, "train": train}, "", "test")
    loop.train(read, out)
    return out


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


def test_a_length_that_was_kept_is_that_average(run, tmp_path) -> None:
    (taken,) = reaverage(run, tmp_path / "model", 0.1)
    assert taken.sigma_rel == 0.1
    assert taken.error < 1e-6
    kept = load_file(run / "averages" / "average-0000012-0.100.safetensors")
    for name, value in weights(tmp_path / "model").items():
        torch.testing.assert_close(value, kept[name].half(), rtol=1e-3, atol=1e-5)


def test_without_a_length_the_lowest_held_out_loss_wins(run, tmp_path) -> None:
    tried = reaverage(run, tmp_path / "model")
    assert len(tried) > 1
    assert [each.loss for each in tried] == sorted(each.loss for each in tried)
    assert (tmp_path / "model" / "model_index.json").exists()


def test_what_can_t_be(run, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"no average of length 0.28 can be made of what was kept"):
        reaverage(run, tmp_path / "model", 0.28)
    with pytest.raises(BadInput, match="exists; choose another"):
        reaverage(run, run)
    with pytest.raises(BadInput, match="holds no training run"):
        reaverage(tmp_path, tmp_path / "model")
    about = json.loads((run / "run.json").read_text())
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "run.json").write_text(json.dumps(about))
    with pytest.raises(BadInput, match="kept no averages; train with ema_profiles"):
        reaverage(tmp_path / "bare", tmp_path / "model")
