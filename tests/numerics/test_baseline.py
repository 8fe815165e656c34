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
    ("DDPMScheduler", {}),
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
            sample = scheduler.step(output, told, sample, return_dict=False)[0]
    return sample


@pytest.mark.parametrize(("name", "config"), CASES, ids=lambda value: str(value).replace("Scheduler", ""))
def test_the_same_pictures_as_diffusers(
    name: str, config: dict[str, Any], tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", name, config)
    source = sources.load(folder, steps=STEPS)
    case = draw(source.shape, 1, 4, seed=5, labels=source.labels).cases[0]
    found = source.build().sample(case)
    wanted = by_diffusers(folder, name, case, monkeypatch)
    noise = (wanted - found).double().square().mean().item()
    agreement = 10 * math.log10(wanted.double().square().mean().item() / max(noise, 1e-30))
    assert agreement >= 60.0, f"{agreement:.1f} dB"


def test_steps_that_a_scheduler_refuses(tiny_folder: Path, tmp_path: Path) -> None:
    folder = folder_with(tiny_folder, tmp_path / "model", "DDIMScheduler", {"num_train_timesteps": 20})
    with pytest.raises(BadInput, match="50"):
        sources.load(folder).build()
    with pytest.raises(BadInput, match=r"steps = 0 is out of range; 1 to 1000"):
        sources.load(folder, steps=0)
