"""What is trained: a recipe's network as a Source, how it is asked in training, and the folder that it becomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel
from safetensors.torch import save

from hasten.data.array import Data
from hasten.diffusion import schedule, solvers, times
from hasten.errors import BadInput
from hasten.files import write_bytes, write_text
from hasten.model import source as sources
from hasten.model.config import read_folder
from hasten.model.folder import save_folder, unet
from hasten.model.source import Source
from hasten.model.target import Target
from hasten.model.workload import Case
from hasten.train.recipe import Recipe

SCHEDULES: dict[str, Callable[[int], schedule.Schedule]] = {
    "linear": schedule.linear,
    "scaled_linear": schedule.scaled_linear,
    "squaredcos_cap_v2": schedule.cosine,
    "flow": lambda _timesteps: schedule.flow(),
    "edm": lambda _timesteps: schedule.edm(),
}
SAMPLES = 64
SAMPLE_STEPS = 25


def source_of(recipe: Recipe, data: Data, given: Source | None = None) -> Source:
    """The network to train: ``given``, the folder that the recipe names, or a fresh ``UNet2DModel`` by its seed.

    A fresh network learns the data's labels and "no class".  Raises BadInput when the recipe describes no network, or
    data and network do not fit.
    """
    section, device = recipe.model, recipe.train.device
    if given is not None or section.folder is not None:
        found = given or sources.load(str(section.folder), device=device)
        if section.block_out_channels is not None:
            raise BadInput("model.block_out_channels is for a fresh network, and one is given already; drop it")
        if found.shape != data.shape:
            raise BadInput(f"{found.name} makes samples of shape {found.shape}, data {data.name} has {data.shape}")
        labelled(data, found)
        known = 0 if found.num_labels is None else found.num_labels - (found.null_label is not None)
        if known and len(data.label_names) > known:
            raise BadInput(f"data {data.name} has {len(data.label_names)} labels, {found.name} knows {known}")
        return replace(found, device=device)
    if section.block_out_channels is None:
        raise BadInput("model.block_out_channels is missing; add it, or model.folder")
    if len(data.shape) != 3:
        raise BadInput(f"data {data.name} has samples of shape {data.shape}; a UNet2DModel takes pictures only")
    null = len(data.label_names)

    def fresh() -> torch.nn.Module:
        made: torch.nn.Module
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            made = unet(
                data.shape,
                null + 1,
                list(section.block_out_channels or ()),
                section.layers_per_block,
                section.attention_levels,
                section.attention_head_dim,
                section.norm_num_groups,
            )
        return made

    return Source(
        name="UNet2DModel",
        module=fresh,
        call=sources.call_unet,
        shape=data.shape,
        schedule=SCHEDULES[section.schedule](section.timesteps),
        prediction=section.prediction,
        weight_hash=hashlib.sha256(recipe.identity.encode()).hexdigest(),
        num_labels=null + 1,
        null_label=null,
        label_names=data.label_names,
        attribution=data.attribution,
        device=device,
    )


def labelled(data: Data, source: Source) -> Data:
    """``data`` with the labels of ``source``, by their names; as it is where the network takes none or names none.

    Raises BadInput for a label that the network does not know.
    """
    names = source.label_names
    if source.num_labels is None or not names or data.label_names == names:
        return data
    unknown = [name for name in data.label_names if name not in names]
    if unknown:
        raise BadInput(
            f"data {data.name} has the label {unknown[0]!r}, which {source.name} does not know; "
            f"its labels are {', '.join(names)}"
        )
    number = np.asarray([names.index(name) for name in data.label_names], dtype=np.int64)
    parts = tuple(replace(part, labels=number[part.labels], label_names=names) for part in data.buckets)
    if parts:
        return replace(parts[0], buckets=parts)
    return replace(data, labels=number[data.labels], label_names=names)


def target_of(source: Source, weights: Mapping[str, torch.Tensor]) -> Target:
    """A target with these ``weights`` in float32, for samples and figures along the way."""

    def module() -> torch.nn.Module:
        made = source.module()
        made.load_state_dict({name: value.float() if value.is_floating_point() else value
                              for name, value in weights.items()})  # fmt: skip
        return made

    return replace(source, module=module).build()


def samples_of(target: Target, data: Data, seed: int, count: int = SAMPLES) -> torch.Tensor:
    """``count`` samples (count, *shape) from the seed: DDIM, 25 steps, labels as frequent as in the data."""
    target.table = solvers.ddim(target.schedule, times.uniform(target.schedule, SAMPLE_STEPS))
    noise = torch.randn((count, *target.facts.shape), generator=torch.Generator().manual_seed(seed))
    labels = None
    if target.facts.num_labels is not None:
        labels = torch.from_numpy(np.sort(np.random.default_rng(seed).choice(data.labels, count)))
    return target.sample(Case(0, seed, noise, labels))


def save_model(
    source: Source,
    network: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    recipe: Recipe,
    data: Data,
    folder: Path,
) -> None:
    """``weights`` as a diffusers folder in float16; of a module of one's own as ``weights.safetensors`` in float32.

    What the formats have no place for goes to ``hasten.json``.
    """
    extra = {
        "attribution": source.attribution or data.attribution,
        "data": data.name,
        "label_names": list(source.label_names),
        "null_label": source.null_label,
        "recipe": recipe.model_dump(),
    }
    scheduler = _scheduler(source, recipe)
    if scheduler and isinstance(network, UNet2DModel):
        config: dict[str, Any] = json.loads(network.to_json_string())
        save_folder(folder, config, dict(weights), scheduler, extra)
        return
    whole = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    write_bytes(folder / "weights.safetensors", save(whole))
    write_text(folder / "hasten.json", json.dumps(extra, indent=2, sort_keys=True) + "\n")


def _scheduler(source: Source, recipe: Recipe) -> dict[str, Any] | None:
    """The diffusers config of the noise schedule, None where only a person's own code knows it."""
    if source.folder is not None:
        return read_folder(source.folder).scheduler
    section = recipe.model
    if section.block_out_channels is None:
        return None
    if section.schedule == "flow":
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0}
    if section.schedule == "edm":
        return {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
                "prediction_type": "epsilon"}  # fmt: skip
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": section.schedule,
        "num_train_timesteps": section.timesteps,
        "prediction_type": section.prediction,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "timestep_spacing": "trailing",
    }
