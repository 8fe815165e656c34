"""A diffusers model folder, read and checked without importing torch.

Two kinds of folder are taken: a pipeline folder (``model_index.json`` beside ``unet/`` and ``scheduler/``), and a plain
model folder (``config.json`` beside the weights, with ``scheduler_config.json`` there or in ``scheduler/``).  Class
names are compared with known ones; :mod:`hasten.model.inside` opens the files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from hasten.errors import BadInput, shown
from hasten.model.checked import Channels, Checked, check_levels, checked
from hasten.model.header import headers, match
from hasten.model.inside import check_folder, exists, read_json, refuse_pickles, weight_files_in
from hasten.model.noise import DISCRETE, EDM, FLOW

PARTS = ("unet", "scheduler")
# Keys that diffusers' EMAModel writes into config.json, and that are no arguments of the network.
EMA_KEYS = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")


@dataclass(frozen=True)
class FolderSpec:
    """What a model folder holds.

    ``network_config``: every argument of ``UNet2DModel``, checked; ``weight_files``: safetensors, checked by header;
    ``scheduler``: the scheduler's config as it is, with its ``_class_name``; ``extra``: ``hasten.json``, or empty.
    """

    network_config: dict[str, Any]
    weight_files: tuple[Path, ...]
    scheduler: dict[str, Any]
    extra: dict[str, Any]
    folder: Path

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a sample."""
        size = self.network_config["sample_size"]
        high, wide = (size, size) if isinstance(size, int) else size
        return int(self.network_config["in_channels"]), high, wide

    @property
    def sample_bytes(self) -> int:
        """Of a sample in float32."""
        return 4 * math.prod(self.shape)

    @property
    def float32_bytes(self) -> int:
        """Of all weights in float32."""
        return 4 * sum(math.prod(info.shape) for info in headers(self.weight_files).values())

    def least_bytes(self, images: int) -> int:
        """What an evaluation of ``images`` at once needs at least: weights, and what a convolution reads and writes."""
        widths: list[int] = self.network_config["block_out_channels"]
        widest = max(width >> 2 * level for level, width in enumerate(widths))
        return self.float32_bytes + images * 2 * widest * self.sample_bytes // self.shape[0]


DownBlock = Literal[
    "DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "SkipDownBlock2D", "AttnSkipDownBlock2D"
]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "SkipUpBlock2D", "AttnSkipUpBlock2D"]


class UNet2D(Checked):
    """The arguments of ``UNet2DModel`` with diffusers' own defaults, as far as hasten can run what they make.

    Fourier embeddings take the logarithm of the time that they are told, and the network divides by it.
    The limits keep even a network without memory quick to build: 12 levels of 32 layers take about 2 s.
    """

    sample_size: Channels | Annotated[list[Channels], Field(min_length=2, max_length=2)]
    in_channels: Channels = 3
    out_channels: Channels = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional", "fourier"] = "positional"
    time_embedding_dim: Channels | None = None
    freq_shift: int = Field(0, ge=0, le=1)
    flip_sin_to_cos: bool = True
    down_block_types: list[DownBlock] = Field(["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"])
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: list[UpBlock] = Field(["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"])
    block_out_channels: list[Channels] = Field([224, 448, 672, 896], min_length=1, max_length=12)
    layers_per_block: int = Field(2, ge=1, le=32)
    mid_block_scale_factor: int | float = Field(1, gt=0)
    downsample_padding: int = Field(1, ge=0, le=1)
    downsample_type: Literal["conv", "resnet"] = "conv"
    upsample_type: Literal["conv", "resnet"] = "conv"
    dropout: int | float = Field(0.0, ge=0, le=1)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    attention_head_dim: Channels | None = 8
    norm_num_groups: Channels = 32
    attn_norm_num_groups: Channels | None = None
    norm_eps: float = Field(1e-5, gt=0)
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_levels(self.block_out_channels, self.norm_num_groups, self.down_block_types, self.up_block_types)
        levels = len(self.block_out_channels)
        for size in self.sample_size if isinstance(self.sample_size, list) else [self.sample_size]:
            if size % 2 ** (levels - 1):
                raise ValueError(f"sample_size {size} is no multiple of {2 ** (levels - 1)}, as {levels} levels need")
        return self


class Extra(Checked):
    """The keys of ``hasten.json`` that loading reads; others may stand beside them."""

    model_config = ConfigDict(extra="ignore")

    null_label: Annotated[int, Field(ge=0)] | None = None
    label_names: list[str] = Field([])
    attribution: str = ""


def read_folder(path: Path | str, weights: bool = True) -> FolderSpec:
    """A diffusers folder, everything in it checked that can be without torch, the weights' headers included; without
    ``weights`` no file of them is looked for.

    Raises BadInput for a folder or file that is missing, broken, unknown, disagrees with another, names code, leads
    out of the folder, or may run code when opened (pickle).
    """
    folder = Path(path)
    check_folder(folder)
    part, config, scheduler = _configs(folder)
    where = folder / part / "config.json"
    if config.get("_class_name") != "UNet2DModel":
        raise BadInput(f"{where}: {shown(config.get('_class_name'))} is not supported yet; known: UNet2DModel")
    ours = {key: value for key, value in config.items() if not key.startswith("_") and key not in EMA_KEYS}
    network = checked(UNet2D, ours, where)
    files = weight_files_in(folder, part) if weights else ()
    if weights:
        _check_channels(network, files, where, scheduler)
    return FolderSpec(network.model_dump(), files, scheduler, _extra(folder, network), folder)


def _configs(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The part that holds the network ("." in a plain model folder), its config and the scheduler's."""
    if exists(folder, "model_index.json"):
        index = read_json(folder, "model_index.json")
        _check_index(folder, index)
        # diffusers looks in the folder itself for a part without a folder of its own; google/ddpm-* are such
        unet, schedule = ("." if not exists(folder, part) else part for part in PARTS)
        config = {"_class_name": index["unet"][1], **read_json(folder, f"{unet}/config.json")}
        scheduler = read_json(folder, f"{schedule}/scheduler_config.json")
        return unet, config, {**scheduler, "_class_name": index["scheduler"][1]}
    if not exists(folder, "config.json"):
        refuse_pickles(folder, ".")
        raise BadInput(f"{folder} holds neither model_index.json nor config.json; pass a diffusers model folder")
    for place in ("scheduler/scheduler_config.json", "scheduler_config.json"):
        if exists(folder, place):
            return ".", read_json(folder, "config.json"), read_json(folder, place)
    raise BadInput(f"{folder} lacks scheduler_config.json; put it beside config.json, or pass the pipeline folder")


def _extra(folder: Path, network: UNet2D) -> dict[str, Any]:
    """``hasten.json`` if there is one."""
    path = folder / "hasten.json"
    if not exists(folder, path.name):
        return {}
    extra = read_json(folder, path.name)
    null_label, labels = checked(Extra, extra, path).null_label, network.num_class_embeds or 0
    if null_label is not None and null_label >= labels:
        raise BadInput(f"{path}: null_label {null_label} is none of the network's {labels} labels; correct it")
    return extra


def _check_index(folder: Path, index: dict[str, Any]) -> None:
    """The pipeline must consist of known parts, each a class of diffusers itself."""
    path = folder / "model_index.json"
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str | None):
        raise BadInput(
            f"{path}: _class_name {shown(pipeline)} names code, and hasten runs none from a folder; remove it"
        )
    for part, entry in index.items():
        if part.startswith("_") or (isinstance(entry, bool) and part not in PARTS) or entry in (None, [None, None]):
            continue
        pair = entry if isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry) else None
        if part not in PARTS:
            what = pair[1] if pair else shown(entry)
            raise BadInput(
                f"{path}: {_plain(part)}: {_plain(what)} is not supported yet; known parts: {', '.join(PARTS)}"
            )
        if part == "scheduler" and pair and pair[0] == "deprecated":  # where diffusers puts what it has given up
            raise BadInput(
                f"{path}: scheduler: {_plain(pair[1])} is deprecated in diffusers, and not supported; "
                f"known: {', '.join([*DISCRETE, *EDM, *FLOW])}"
            )
        if pair is None or pair[0] != "diffusers":
            raise BadInput(f"{path}: {part}: {shown(entry)} names code; only ['diffusers', a known class] is taken")
        if part == "unet" and pair[1] != "UNet2DModel":
            raise BadInput(f"{path}: unet: {_plain(pair[1])} is not supported yet; known: UNet2DModel")
        if part == "scheduler" and not (pair[1].isidentifier() and pair[1].endswith("Scheduler")):
            raise BadInput(f"{path}: scheduler: {_plain(pair[1])} is no scheduler; use one of diffusers'")
    for part in PARTS:
        if index.get(part) in (None, [None, None]):
            raise BadInput(f"{path}: the part {part} is missing; known parts: {', '.join(PARTS)}, and both are needed")


def _check_channels(network: UNet2D, files: tuple[Path, ...], where: Path, scheduler: dict[str, Any]) -> None:
    """Compare the tensors whose shapes a person sets with the files' headers: answers before torch is imported.

    A network of twice as many channels out as in predicts a variance too, in the second half (Nichol and Dhariwal 2021,
    arXiv:2102.09672, section 3.1), which only ancestral sampling needs.
    """
    found = headers(files)
    width = network.block_out_channels[0]
    shapes: dict[str, tuple[int, ...]] = {
        "conv_in.weight": (width, network.in_channels, 3, 3),
        "conv_out.weight": (network.out_channels, width, 3, 3),
    }
    if network.num_class_embeds is not None:
        shapes["class_embedding.weight"] = (network.num_class_embeds, network.time_embedding_dim or 4 * width)
    held = {name: shape for name, shape in shapes.items() if name in found}
    match(held, {name: found[name] for name in held}, str(where))
    name, channels = str(scheduler.get("_class_name")), f"out_channels {network.out_channels}"
    if network.out_channels not in (network.in_channels, 2 * network.in_channels):
        raise BadInput(
            f"{where}: {channels} is neither in_channels {network.in_channels} nor, with a variance, twice as many; "
            "a network that takes a picture as condition is not supported yet"
        )
    variance = str(scheduler.get("variance_type"))
    if network.out_channels != network.in_channels and name.startswith("DDPM") and variance.startswith("learned"):
        raise BadInput(
            f"{where}: {channels}: {name} adds noise of the variance that the network predicts (variance_type "
            f"{variance}), which no sampler table holds; use another scheduler of the same betas, such as DDIMScheduler"
        )


def _plain(text: str) -> str:
    """A class or part name without quotes where it is an ordinary one."""
    return text if text.isidentifier() else shown(text)
