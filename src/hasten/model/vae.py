"""A folder of diffusers' ``AutoencoderKL``, checked as a model's folder is, between pictures and scaled latents.

The network learns on ``z = (mean - shift_factor) * scaling_factor`` (Rombach et al. 2022, arXiv:2112.10752, app. G;
the shift: Esser et al. 2024, arXiv:2403.03206), with the posterior's mean for its sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from hasten.environment import check_device
from hasten.errors import BadInput, shown
from hasten.model.checked import Channels, Checked, check_levels, checked
from hasten.model.config import FolderSpec
from hasten.model.header import headers, match
from hasten.model.inside import check_folder, read_json, weight_files_in
from hasten.model.weights import load_weights, weight_hash

if TYPE_CHECKING:  # what is wrong with a folder is said before torch is imported
    import torch

CLASS = "AutoencoderKL"


class AutoencoderKL(Checked):
    """The arguments of ``AutoencoderKL`` with diffusers' own defaults."""

    in_channels: Channels = 3
    out_channels: Channels = 3
    down_block_types: list[Literal["DownEncoderBlock2D"]] = Field(["DownEncoderBlock2D"])
    up_block_types: list[Literal["UpDecoderBlock2D"]] = Field(["UpDecoderBlock2D"])
    block_out_channels: list[Channels] = Field([64], min_length=1, max_length=12)
    layers_per_block: int = Field(1, ge=1, le=32)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Channels = 4
    norm_num_groups: Channels = 32
    sample_size: Channels | Annotated[list[Channels], Field(min_length=2, max_length=2)] = 32
    scaling_factor: float = Field(0.18215, gt=0)
    shift_factor: float | None = None
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_levels(self.block_out_channels, self.norm_num_groups, self.down_block_types, self.up_block_types)
        return self


@dataclass(frozen=True)
class VAE:
    """``module`` in float32 and eval mode, on ``device``; ``hash``: of configuration and weights, 64 digits."""

    name: str
    module: torch.nn.Module
    config: AutoencoderKL
    hash: str
    device: str

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """The shape of a latent for pictures of ``shape``; raises BadInput for samples that the VAE can't take."""
        shrink, channels = 2 ** (len(self.config.block_out_channels) - 1), self.config.in_channels
        if len(shape) != 3 or shape[0] != channels or shape[1] % shrink or shape[2] % shrink:
            raise BadInput(
                f"VAE {self.name} takes pictures of {channels} channels and sides that are multiples of {shrink}, "
                f"not samples of shape {shape}; use another data.size"
            )
        return self.config.latent_channels, shape[1] // shrink, shape[2] // shrink

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Scaled latents (n, *latent_shape) float32 on the host of pictures (n, c, h, w) float32 in [-1, 1]."""
        import torch

        with torch.inference_mode():
            mean = self.module.encode(pictures.to(self.device)).latent_dist.mode()  # type: ignore[operator]
            scaled: torch.Tensor = (mean - (self.config.shift_factor or 0.0)) * self.config.scaling_factor
            return scaled.float().cpu()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (n, c, h, w) float32 in about [-1, 1], on the host, of scaled latents (n, *latent_shape)."""
        import torch

        with torch.inference_mode():
            mean = latents.to(self.device).float() / self.config.scaling_factor + (self.config.shift_factor or 0.0)
            decoded: torch.Tensor = self.module.decode(mean).sample  # type: ignore[operator]
            return decoded.float().cpu()


def load(path: Path | str, device: str = "cpu") -> VAE:
    """The VAE in a folder with ``config.json`` and safetensors.

    Raises BadInput for a folder that is missing, broken or unknown, names code, leads out of itself, or may run code
    when opened (pickle), and for weights that don't fit the configuration or hold NaN or Inf.
    """
    check_device(device)
    folder = Path(path)
    check_folder(folder)
    where = folder / "config.json"
    values = read_json(folder, where.name)
    if values.get("_class_name") != CLASS:
        raise BadInput(f"{where}: {shown(values.get('_class_name'))} is not supported yet; known: {CLASS}")
    config = checked(AutoencoderKL, {key: v for key, v in values.items() if not key.startswith("_")}, where)
    files = weight_files_in(folder, ".")
    found = headers(files)

    import torch
    from diffusers import AutoencoderKL as Network

    with torch.device("meta"):
        module: torch.nn.Module = Network(**config.model_dump())
    match({name: tuple(value.shape) for name, value in module.state_dict().items()}, found, str(folder))
    module.load_state_dict(load_weights(FolderSpec(config.model_dump(), files, {}, {}, folder)), assign=True)
    module.eval().requires_grad_(False).to(device)
    return VAE(folder.resolve().name, module, config, weight_hash([where, *files]), device)
