"""A VAE's folder, written by diffusers itself: loaded, checked, between pictures and latents as diffusers has them."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from hasten.errors import BadInput
from hasten.model import vae

PICTURES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[AutoencoderKL, Path]:
    torch.manual_seed(0)
    module = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=[8, 8, 16],
        norm_num_groups=4,
        scaling_factor=1.5,
        shift_factor=0.25,
    ).eval()
    folder = tmp_path_factory.mktemp("vae") / "small"
    module.save_pretrained(folder)
    return module, folder


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A copy that may be spoilt."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in original[1].iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def changed(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def test_latents_are_those_of_diffusers_scaled(original) -> None:
    module, folder = original
    loaded = vae.load(folder)
    assert loaded.latent_shape((3, 16, 24)) == (4, 4, 6)
    latents = loaded.encode(PICTURES)
    with torch.no_grad():
        posterior = module.encode(PICTURES).latent_dist
        decoded = module.decode(posterior.mean).sample
    assert latents.shape == (2, 4, 4, 6)
    assert torch.equal(latents, (posterior.mean - 0.25) * 1.5)
    assert torch.allclose(loaded.decode(latents), decoded, atol=1e-5)
    assert not loaded.decode(latents).requires_grad


def test_without_a_shift(folder) -> None:
    expected = vae.load(folder).encode(PICTURES)
    changed(folder, shift_factor=None)
    assert torch.allclose(vae.load(folder).encode(PICTURES), expected + 0.25 * 1.5, atol=1e-6)


def test_the_hash_is_of_weights_and_config(original, folder) -> None:
    assert vae.load(folder).hash == vae.load(original[1]).hash
    changed(folder, scaling_factor=2.0)
    assert vae.load(folder).hash != vae.load(original[1]).hash


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 18, 16), (3, 16, 18), (3, 16)])
def test_samples_that_it_can_t_take(original, shape) -> None:
    with pytest.raises(BadInput, match="3 channels and sides that are multiples of 4"):
        vae.load(original[1]).latent_shape(shape)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"_class_name": "VQModel"}, "'VQModel' is not supported yet; known: AutoencoderKL"),
        ({"scaling_factor": 0}, "scaling_factor = 0"),
        ({"latents_mean": [0.0] * 4}, "latents_mean"),
        ({"latent_chanels": 4}, "'latent_chanels' is not known; did you mean 'latent_channels'"),
        ({"block_out_channels": [8, 8, 18]}, "no multiple of norm_num_groups 4"),
        ({"block_out_channels": [8, 16]}, "down_block_types has 3 entries, block_out_channels 2"),
        ({"latent_channels": 8}, "small|copy.*shape"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "names code"),
    ],
)
def test_a_config_that_is_wrong(folder, values, why: str) -> None:
    changed(folder, **values)
    with pytest.raises(BadInput, match=why):
        vae.load(folder)


def test_weights_that_are_wrong(folder) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["decoder.conv_in.bias"][0] = torch.nan
    save_file(weights, path)
    with pytest.raises(BadInput, match=r"'decoder\.conv_in\.bias' holds 1 NaN or Inf"):
        vae.load(folder)
    del weights["decoder.conv_in.bias"]
    save_file(weights, path)
    with pytest.raises(BadInput, match=r"1 missing key \('decoder\.conv_in\.bias'\)"):
        vae.load(folder)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(BadInput, match="truncated"):
        vae.load(folder)
    path.rename(folder / "diffusion_pytorch_model.bin")
    with pytest.raises(BadInput, match=r"\.bin may run code; convert it to safetensors"):
        vae.load(folder)


def test_no_folder(tmp_path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        vae.load(tmp_path / "none")
    with pytest.raises(BadInput, match=r"config\.json is missing"):
        vae.load(tmp_path)
