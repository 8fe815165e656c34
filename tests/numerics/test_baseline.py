"""The baseline is the folder's own pipeline as configured: the same pictures as diffusers' loop makes, to 60 dB."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from hasten.errors import BadInput
from hasten.model import source as sources
from hasten.model.workload import Case, draw

STEPS = 12
CASES: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),  # clips, as diffusers does by default
    ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    ("DDIMScheduler", {"clip_sample_range": 0.5, "steps_offset": 1, "set_alpha_to_one": False}),
    ("DDIMScheduler", {"thresholding": True, "clip_sample": False, "sample_max_value": 1.5}),
    ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "linspace", "prediction_type": "v_prediction"}),
    ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}),
    ("DDIMParallelScheduler", {}),
    ("DDPMScheduler", {}),
    ("DDPMParallelScheduler", {}),
    ("DDPMScheduler", {"clip_sample": False, "variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"thresholding": True, "algorithm_type": "dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "solver_order": 3}),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True, "timestep_spacing": "leading"}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}),
    ("SASolverScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchHeunDiscreteScheduler", {}),
]


def folder_with(base: Path, to: Path, name: str, config: dict[str, Any]) -> Path:
    """The folder ``base`` under another scheduler."""
    shutil.copytree(base, to)
    getattr(diffusers, name)(**config).save_pretrained(to / "scheduler")
    index = json.loads((to / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", name]
    (to / "model_index.json").write_text(json.dumps(index))
    return to


def by_diffusers(folder: Path, name: str, case: Case, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """diffusers' own loop; fresh noise is the case's, by the row that it goes into."""
    network = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    channels = case.noise.shape[1]
    scheduler = getattr(diffusers, name).from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(STEPS)
    row = 0

    def fresh(*_: Any, **__: Any) -> torch.Tensor:
        return case.fresh(row)

    module = __import__(type(scheduler).__module__, fromlist=["x"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", fresh)
    sample = case.noise * getattr(scheduler, "init_noise_sigma", 1.0)
    with torch.no_grad():
        for number, told in enumerate(scheduler.timesteps):
            row = number + 1
            x = scheduler.scale_model_input(sample, told) if hasattr(scheduler, "scale_model_input") else sample
            output = network(x, told.float(), class_labels=case.labels, return_dict=False)[0]
            if output.shape[1] == 2 * channels and "variance_type" not in scheduler.config:
                output = output[:, :channels]  # as diffusers' DiTPipeline does; others' schedulers do so themselves
            sample = scheduler.step(output, told, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda value: str(value).replace("Scheduler", ""))
def test_the_same_pictures_as_diffusers(
    name: str, config: dict[str, Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agrees(folder_with(tiny_folder, tmp_path / "model", name, config), name, monkeypatch)


def agrees(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That ours and diffusers' samples agree to 60 dB."""
    source = sources.load(folder, steps=STEPS)
    case = draw(source.shape, 1, 4, seed=5, labels=source.labels).cases[0]
    found = source.build().sample(case)
    wanted = by_diffusers(folder, name, case, monkeypatch)
    noise = (wanted - found).double().square().mean().item()
    agreement = 10 * math.log10(wanted.double().square().mean().item() / max(noise, 1e-30))
    assert agreement >= 60.0, f"{agreement:.1f} dB"


def another_network(folder: Path, **changes: Any) -> Path:
    """The pipeline folder with a small network of three channels."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "layers_per_block": 1}
    config = {"sample_size": 8, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
    shutil.rmtree(folder / "unet")
    diffusers.UNet2DModel(**config, **blocks, **changes).save_pretrained(folder / "unet")
    return folder


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
        ("DPMSolverMultistepScheduler", {"variance_type": "learned", "algorithm_type": "sde-dpmsolver++"}),
        ("DPMSolverSinglestepScheduler", {"variance_type": "learned_range"}),
        ("SASolverScheduler", {"variance_type": "learned_range"}),
        ("DDIMScheduler", {}),
        ("UniPCMultistepScheduler", {}),
    ],
)
def test_networks_that_predict_a_variance_too(
    name: str, config: dict[str, Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", name, config)
    agrees(another_network(folder, out_channels=6), name, monkeypatch)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_variance_that_noise_follows_is_refused(variance: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", "DDPMScheduler", {"variance_type": variance})
    with pytest.raises(BadInput, match=rf"DDPMScheduler adds noise of the variance .* \(variance_type {variance}\)"):
        sources.load(another_network(folder, out_channels=6))


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIMScheduler", {"timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ],
)
def test_fourier_embeddings(
    name: str, config: dict[str, Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", name, config)
    agrees(another_network(folder, time_embedding_type="fourier"), name, monkeypatch)


@pytest.mark.parametrize(("name", "told"), [("DDIMScheduler", "0"), ("EDMEulerScheduler", "-1.55")])
def test_fourier_embeddings_are_not_asked_at_no_time(name: str, told: str, tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", name, {})
    with pytest.raises(BadInput, match=rf"takes the logarithm of the time, and .* ask at {told};"):
        sources.load(another_network(folder, time_embedding_type="fourier"), steps=STEPS)


def test_fourier_embeddings_answer_other_grids(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", "DDIMScheduler", {"timestep_spacing": "trailing"})
    source = sources.load(another_network(folder, time_embedding_type="fourier"), steps=STEPS)
    target = source.build()
    first = 1.0 / 1000.0  # of which a network is told 0, as grids of many steps end
    assert target.denoise(torch.ones(1, 3, 8, 8), first).isfinite().all()


def test_steps_that_a_scheduler_refuses(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", "DDIMScheduler", {"num_train_timesteps": 20})
    with pytest.raises(BadInput, match="50"):
        sources.load(folder).build()
    with pytest.raises(BadInput, match=r"steps = 0 is out of range; 1 to 1000"):
        sources.load(folder, steps=0)
