"""A diffusers model folder, read and checked without importing torch; its scheduler's config as a Schedule.

Two kinds of folder are taken: a pipeline folder (``model_index.json`` beside ``unet/`` and ``scheduler/``), and a plain
model folder (``config.json`` beside the weights, with ``scheduler_config.json`` there or in ``scheduler/``).  Nothing
that a folder says is run, and nothing outside it is opened: class names are compared with known ones, files are JSON
and safetensors, and entries or links that lead elsewhere are refused.

Schedules, as diffusers' schedulers compute them: ``linear`` (Ho et al. 2020, arXiv:2006.11239), ``scaled_linear``
(Rombach et al. 2022, arXiv:2112.10752), ``squaredcos_cap_v2`` (Nichol and Dhariwal 2021, arXiv:2102.09672, eq. 17),
zero terminal SNR (Lin et al. 2023, arXiv:2305.08891, alg. 1), EDM (Karras et al. 2022, arXiv:2206.00364) and flow
matching with a shift (Esser et al. 2024, arXiv:2403.03206, eq. 23).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hasten.diffusion.prediction import Prediction
from hasten.diffusion.schedule import Schedule, cosine, edm, flow, from_betas, linear, scaled_linear
from hasten.errors import BadInput, did_you_mean
from hasten.files import why
from hasten.model.weights import FETCH_AGAIN, check_header, headers, match, parse_object, shown

JSON_LIMIT = 1 << 20  # bytes
DEPTH_LIMIT = 16
PARTS = ("unet", "scheduler")
PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl", ".pickle")
WEIGHTS = "diffusion_pytorch_model"
NAMES_CODE = ("auto_map", "custom_pipeline", "trust_remote_code")
# Keys that diffusers' EMAModel writes into config.json, and that are no arguments of the network.
EMA_KEYS = ("decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup")

# beta_start and beta_end where the config does not say them; the schedule is then linear, as in diffusers.
_PLAIN, _HEUN = (0.0001, 0.02), (0.00085, 0.012)
DISCRETE = {
    "DDIMParallelScheduler": _PLAIN,
    "DDIMScheduler": _PLAIN,
    "DDPMParallelScheduler": _PLAIN,
    "DDPMScheduler": _PLAIN,
    "DEISMultistepScheduler": _PLAIN,
    "DPMSolverMultistepScheduler": _PLAIN,
    "DPMSolverSinglestepScheduler": _PLAIN,
    "EulerAncestralDiscreteScheduler": _PLAIN,
    "EulerDiscreteScheduler": _PLAIN,
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2AncestralDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _HEUN,
    "LMSDiscreteScheduler": _PLAIN,
    "PNDMScheduler": _PLAIN,
    "SASolverScheduler": _PLAIN,
    "UniPCMultistepScheduler": _PLAIN,
}
EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
ALIKE = ("FlowMapEulerDiscreteScheduler", "IPNDMScheduler")  # one letter from a known one, and no slip of the pen
FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


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


class Checked(BaseModel):
    """Values from JSON: strict types, no NaN, no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


Model = TypeVar("Model", bound=Checked)
Channels = Annotated[int, Field(ge=1, le=65_536)]
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
    down_block_types: list[DownBlock] = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: list[UpBlock] = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
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
        levels = len(self.block_out_channels)
        for key in ("down_block_types", "up_block_types"):
            if len(getattr(self, key)) != levels:
                raise ValueError(f"{key} has {len(getattr(self, key))} entries, block_out_channels {levels}")
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels {channels} is no multiple of norm_num_groups {self.norm_num_groups}"
                )
        for size in self.sample_size if isinstance(self.sample_size, list) else [self.sample_size]:
            if size % 2 ** (levels - 1):
                raise ValueError(f"sample_size {size} is no multiple of {2 ** (levels - 1)}, as {levels} levels need")
        return self


class Extra(Checked):
    """The keys of ``hasten.json`` that loading reads; others may stand beside them."""

    model_config = ConfigDict(extra="ignore")

    null_label: Annotated[int, Field(ge=0)] | None = None
    label_names: list[str] = []
    attribution: str = ""


class Discrete(Checked):
    """What of a discrete scheduler's config makes the noise schedule; the rest is about its own sampling."""

    model_config = ConfigDict(extra="ignore")

    num_train_timesteps: int = Field(1000, ge=2, le=100_000)
    beta_start: float = Field(gt=0, lt=1)
    beta_end: float = Field(gt=0, lt=1)
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=2)] | None = None
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "epsilon"
    rescale_betas_zero_snr: bool = False
    use_flow_sigmas: bool = False
    flow_shift: float = Field(1.0, gt=0, le=9)
    timestep_type: Literal["discrete"] = "discrete"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        betas, count = self.trained_betas, self.num_train_timesteps
        if betas is not None and len(betas) != count:
            raise ValueError(f"trained_betas has {len(betas)} entries, num_train_timesteps says {count}")
        if self.use_flow_sigmas != (self.prediction_type == "flow_prediction"):
            raise ValueError("use_flow_sigmas: true and prediction_type: flow_prediction belong together")
        if self.use_flow_sigmas and count != 1000:
            raise ValueError(f"num_train_timesteps {count}: flow models are told their time in 1000ths")
        return self


class Edm(Checked):
    """The noise range of an EDM model, whose ``epsilon`` is the preconditioned output F."""

    model_config = ConfigDict(extra="ignore")

    sigma_min: float = Field(0.002, gt=0)
    sigma_max: float = Field(80.0, gt=0)
    sigma_data: float = Field(0.5, gt=0)
    prediction_type: Literal["epsilon"] = "epsilon"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min {self.sigma_min:g} is not under sigma_max {self.sigma_max:g}")
        return self


class Flow(Checked):
    """A flow-matching model; a network that is told its time in other units than 1000ths is not known yet."""

    model_config = ConfigDict(extra="ignore")

    num_train_timesteps: Literal[1000] = 1000
    shift: float = Field(1.0, gt=0, le=9)
    invert_sigmas: Literal[False] = False


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


def schedule_of(scheduler: dict[str, Any]) -> tuple[Schedule, Prediction]:
    """The noise schedule of a diffusers scheduler's config, and what the network predicts.

    With ``rescale_betas_zero_snr`` the last alpha_bar is 0 and s = sigma / alpha infinite there; a Schedule needs a
    finite s, so the last knot gets twice the s of the knot before it, far above where time grids start.
    Raises BadInput for a scheduler, a schedule or a prediction type that is not known, and for numbers out of range.
    """
    name = scheduler.get("_class_name")
    where = f"scheduler_config.json ({name})"
    if name in EDM:
        scale = checked(Edm, scheduler, where)
        return edm(scale.sigma_min, scale.sigma_max), "edm"
    if name in FLOW:
        return flow(shift=checked(Flow, scheduler, where).shift), "flow"
    if name == "ScoreSdeVeScheduler":
        raise BadInput(
            f"{where}: the size of its corrector's steps follows the norm of what the network answers, which no "
            f"sampler table holds; use another; known: {', '.join([*DISCRETE, *EDM, *FLOW])}"
        )
    if not isinstance(name, str) or name not in DISCRETE:
        known = [*DISCRETE, *EDM, *FLOW]
        slip = isinstance(name, str) and name not in ALIKE and difflib.get_close_matches(name, known, 1, 0.91)
        hint = f"; did you mean {slip[0]!r}?" if slip else f"; known: {', '.join(known)}"
        raise BadInput(f"scheduler_config.json: the scheduler {shown(name)} is not supported yet{hint}")
    start, end = DISCRETE[name]
    config = checked(Discrete, {"beta_start": start, "beta_end": end, **scheduler}, where)
    if config.use_flow_sigmas:
        return flow(shift=config.flow_shift), "flow"
    try:
        with np.errstate(all="ignore"):
            schedule = _discrete(config)
    except ValueError as error:
        raise BadInput(f"{where}: these betas make no noise schedule ({error}); correct them") from error
    prediction: dict[str, Prediction] = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v_prediction"}
    return schedule, prediction[config.prediction_type]


def read_json(folder: Path, entry: str) -> dict[str, Any]:
    """The JSON object in the file ``entry`` of ``folder``: at most 1 MiB, 16 levels deep, and naming no code."""
    path = _inside(folder, entry)
    try:
        with path.open("rb") as file:
            text = file.read(JSON_LIMIT + 1)
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}); check the file") from error
    if len(text) > JSON_LIMIT:
        raise BadInput(f"{path} is over {JSON_LIMIT} bytes, too much for a config; check the file")
    value = parse_object(text, path)
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        for key in NAMES_CODE:
            if any(isinstance(item, dict) and item.get(key) for item in level):
                raise BadInput(f"{path}: {key!r} names code, and hasten runs none from a folder; remove it")
        level = [child for item in level for child in _children(item)]
    if level:
        raise BadInput(f"{path} is nested more than {DEPTH_LIMIT} levels deep; check the file")
    return value


def checked(model: type[Model], values: dict[str, Any], where: object) -> Model:
    """``values`` as a ``model``; raises BadInput with the key, its value and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    key = next((str(part) for part in first["loc"]), "")
    if first["type"] == "extra_forbidden":
        raise BadInput(f"{where}: {shown(key)} is not known{did_you_mean(key, model.model_fields)}")
    if first["type"] == "missing":
        raise BadInput(f"{where}: {key} is missing; add it")
    if not key:
        raise BadInput(f"{where}: {first['msg'].removeprefix('Value error, ')}; correct it")
    message = first["msg"][:1].lower() + first["msg"][1:]
    raise BadInput(f"{where}: {key} = {shown(first['input'])}: {message}")


def check_folder(folder: Path) -> None:
    """Raise BadInput, with what to pass, for a path that is no folder."""
    try:
        is_file, is_folder = folder.is_file(), folder.is_dir()
    except (OSError, ValueError) as error:
        raise BadInput(f"{shown(str(folder))} can't be opened ({why(error)}); check the path") from error
    if is_file and folder.suffix.lower() in PICKLES:
        raise BadInput(f"{folder} may run code; convert it to safetensors, and pass the folder that holds them")
    if is_file:
        raise BadInput(f"{folder} is a file; pass the model's folder")
    if not is_folder:
        raise BadInput(f"{folder} does not exist; pass a diffusers model folder")


def _configs(folder: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The part that holds the network ("." in a plain model folder), its config and the scheduler's."""
    if _exists(folder, "model_index.json"):
        index = read_json(folder, "model_index.json")
        _check_index(folder, index)
        # diffusers looks in the folder itself for a part without a folder of its own; google/ddpm-* are such
        unet, schedule = ("." if not _exists(folder, part) else part for part in PARTS)
        config = {"_class_name": index["unet"][1], **read_json(folder, f"{unet}/config.json")}
        scheduler = read_json(folder, f"{schedule}/scheduler_config.json")
        return unet, config, {**scheduler, "_class_name": index["scheduler"][1]}
    if not _exists(folder, "config.json"):
        _refuse_pickles(folder, ".")
        raise BadInput(f"{folder} holds neither model_index.json nor config.json; pass a diffusers model folder")
    for place in ("scheduler/scheduler_config.json", "scheduler_config.json"):
        if _exists(folder, place):
            return ".", read_json(folder, "config.json"), read_json(folder, place)
    raise BadInput(f"{folder} lacks scheduler_config.json; put it beside config.json, or pass the pipeline folder")


def _extra(folder: Path, network: UNet2D) -> dict[str, Any]:
    """``hasten.json`` if there is one."""
    path = folder / "hasten.json"
    if not _exists(folder, path.name):
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


def weight_files_in(folder: Path, part: str) -> tuple[Path, ...]:
    """The safetensors of a part, found as diffusers finds them: a shard index, the plain name, then a variant."""
    names = _names(folder, part)
    indexes = [n for n in names if ".safetensors.index" in n and n.endswith(".json")]
    for wanted in (f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}.safetensors"):
        if wanted in names:
            chosen = [wanted]
            break
    else:
        shards = {name for index in indexes for name in _weight_map(folder, part, index).values()}
        chosen = [*indexes, *(n for n in names if n.endswith(".safetensors") and n not in shards)]
    if not chosen:
        _refuse_pickles(folder, part)
        raise BadInput(f"{folder / part} holds no weights; expected {WEIGHTS}.safetensors")
    if len(chosen) > 1:
        several = ", ".join(shown(name) for name in chosen[:5])
        raise BadInput(f"{folder / part} holds several weights ({several}) without an index; keep one of them")
    if chosen[0] not in indexes:
        return (_inside(folder, f"{part}/{chosen[0]}"),)
    weight_map = _weight_map(folder, part, chosen[0])
    files = {name: _inside(folder, f"{part}/{name}") for name in sorted(set(weight_map.values()))}
    held = {name: check_header(file) for name, file in files.items()}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            where = folder / part / chosen[0]
            raise BadInput(f"{where}: tensor {shown(tensor)} should be in {shown(name)} and is not; {FETCH_AGAIN}")
    return tuple(files.values())


def _weight_map(folder: Path, part: str, index: str) -> dict[str, str]:
    """Tensor name to shard file, from a shard index."""
    path = folder / part / index
    weight_map = read_json(folder, f"{part}/{index}").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise BadInput(f"{path}: weight_map must name a file for each tensor; download it again")
    for name in weight_map.values():
        if _leads_out(name):
            raise BadInput(f"{path}: the entry {shown(name)} leads out of the folder; name a file beside the index")
        if not name.endswith(".safetensors"):
            raise BadInput(f"{path}: the entry {shown(name)} is no safetensors file and may run code; convert it")
    return weight_map


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


def _discrete(config: Discrete) -> Schedule:
    count, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        schedule = from_betas(config.trained_betas)
    elif config.beta_schedule == "linear":
        schedule = linear(count, start, end)
    elif config.beta_schedule == "scaled_linear":
        schedule = scaled_linear(count, start, end)
    else:
        schedule = cosine(count)
    return _zero_terminal_snr(schedule) if config.rescale_betas_zero_snr else schedule


def _zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Lin et al. 2023, alg. 1: sqrt(alpha_bar) shifted to end at 0 and scaled to start as it did."""
    root = 1.0 / np.sqrt(1.0 + np.square(schedule.knot_s))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    knot_s = np.sqrt(1.0 - root[:-1] ** 2) / root[:-1]
    return Schedule("vp", schedule.knot_t, (*knot_s, 2.0 * knot_s[-1]), schedule.timesteps)


def _leads_out(entry: str) -> bool:
    """Whether a relative path, read as POSIX or Windows would, is absolute or climbs out."""
    posix, windows = PurePosixPath(entry), PureWindowsPath(entry)
    anchored = bool(posix.anchor or windows.anchor)
    return anchored or ".." in (*posix.parts, *windows.parts) or not entry.isprintable() or not posix.parts


def _inside(folder: Path, entry: str) -> Path:
    """A regular file of ``folder``; raises BadInput when it is missing or a link that leads out of the folder.

    In Hugging Face's cache all files of a snapshot are links to the blobs of the same repository: those are followed.
    """
    path = folder / entry
    try:
        home, file = folder.resolve(), path.resolve()
        blobs = [p.parent / "blobs" for p in home.parents if p.name == "snapshots" and p.parent.match("models--*")]
        leads_out = not any(file.is_relative_to(place) for place in (home, *blobs[:1]))
        regular = path.is_file()
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        raise BadInput(f"{folder}: {shown(entry)} can't be followed to a file; check it") from None
    if leads_out:
        raise BadInput(f"{folder}: the link {shown(entry)} leads out of the folder; copy the file in (cp -rL does so)")
    if not regular:
        raise BadInput(f"{path} is missing or no file; a diffusers model folder has it")
    return path


def _exists(folder: Path, entry: str) -> bool:
    path = folder / entry
    return path.is_symlink() or path.exists()


def _names(folder: Path, part: str) -> list[str]:
    try:
        return sorted(path.name for path in (folder / part).iterdir())
    except OSError as error:
        raise BadInput(f"{folder / part} can't be listed ({error.strerror}); check the folder") from error


def _refuse_pickles(folder: Path, part: str) -> None:
    for name in _names(folder, part):
        if Path(name).suffix.lower() in PICKLES:
            raise BadInput(f"{folder / part / name} may run code; convert it to safetensors")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _plain(text: str) -> str:
    """A class or part name without quotes where it is an ordinary one."""
    return text if text.isidentifier() else shown(text)
