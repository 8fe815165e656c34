"""A class-conditional ``UNet2DModel`` and the plain diffusers folder it is saved to.

``hasten.json`` beside ``model_index.json`` holds what the folder format has no place for: the label of "no class" that
guidance needs, the labels' names, where the data came from and its attribution.  The folder loads without it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from safetensors.torch import save

from hasten.files import write_bytes, write_text


def unet(
    shape: tuple[int, ...],
    num_labels: int,
    block_out_channels: list[int],
    layers_per_block: int,
    attention_levels: list[int],
    attention_head_dim: int,
    norm_num_groups: int,
) -> UNet2DModel:
    """A fresh network for samples of ``shape`` (channels, height, width); ``num_labels`` counts "no class" too."""
    levels = len(block_out_channels)
    return UNet2DModel(
        sample_size=shape[-1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        down_block_types=tuple("AttnDownBlock2D" if i in attention_levels else "DownBlock2D" for i in range(levels)),
        up_block_types=tuple(
            "AttnUpBlock2D" if levels - 1 - i in attention_levels else "UpBlock2D" for i in range(levels)
        ),
        norm_num_groups=norm_num_groups,
        attention_head_dim=attention_head_dim,
        num_class_embeds=num_labels,
    )


def save_folder(
    out: Path,
    config: dict[str, Any],
    weights: dict[str, torch.Tensor],
    scheduler: dict[str, Any],
    extra: dict[str, Any],
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write ``out`` as a diffusers pipeline folder: unet (safetensors in ``dtype``), scheduler, and ``hasten.json``.

    A tensor that ``dtype`` can't hold, as float16 none over 65,504, stays in float32.
    """
    index = {
        "_class_name": "DDIMPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    halves = {name: tensor.detach().to(dtype).contiguous() for name, tensor in weights.items()}
    halves |= {n: weights[n].detach().float().contiguous() for n, half in halves.items() if not half.isfinite().all()}
    write_text(out / "unet" / "config.json", _json({**config, "_class_name": "UNet2DModel"}))
    write_bytes(out / "unet" / "diffusion_pytorch_model.safetensors", save(halves, metadata={"format": "pt"}))
    write_text(out / "scheduler" / "scheduler_config.json", _json(scheduler))
    write_text(out / "hasten.json", _json(extra))
    write_text(out / "model_index.json", _json(index))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
