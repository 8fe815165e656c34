"""A training recipe: TOML in, one frozen value out; whatever is wrong is named with its line.

A run is known by its recipe's :attr:`Recipe.identity`, the fields that are not at their defaults: a new field leaves
older runs as they were, and a default must never change.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hasten.errors import BadInput, did_you_mean
from hasten.files import num_bytes, small_text

Share = Annotated[float, Field(ge=0, lt=1)]
VAE_SCALE = 8  # pixels to a latent, of most
LIMIT_BYTES = 1 << 14  # as a plan's
PAIRED = {"flow": "flow", "edm": "edm"}  # schedules that have a prediction of their own


class Section(BaseModel):
    """A table of the recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(Section):
    """What to train on: ``emoji``, ``digits`` or ``folder`` (with ``path``), at ``size`` pixels.

    ``skip_bad`` passes over pictures of a folder that can't be read, a tenth of them at most; ``buckets`` keeps their
    shapes, in batches of one shape each.  ``flip`` (left and right) and ``shift`` (pixels, at most) augment.  ``vae``:
    a folder of diffusers' ``AutoencoderKL``, whose latents are trained on.  ``workers``: threads that prefetch batches.
    """

    name: Literal["emoji", "digits", "folder"]
    size: int = Field(32, ge=8, le=1024)
    path: str | None = None
    skip_bad: bool = False
    buckets: bool = False
    flip: bool = False
    shift: int = Field(0, ge=0, le=64)
    vae: str | None = None
    workers: int = Field(0, ge=0, le=64)


class ModelSection(Section):
    """A fresh diffusers ``UNet2DModel`` and its noise schedule; or the ``folder`` of a model to train further."""

    folder: str | None = None
    block_out_channels: list[Annotated[int, Field(ge=1, le=4096)]] | None = Field(None, min_length=1, max_length=8)
    layers_per_block: int = Field(1, ge=1, le=8)
    attention_levels: list[int] = []
    attention_head_dim: int = Field(32, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "flow", "edm"] = "squaredcos_cap_v2"
    timesteps: int = Field(1000, ge=10, le=10_000)
    prediction: Literal["epsilon", "sample", "v_prediction", "flow", "edm"] = "v_prediction"


class TeacherSection(Section):
    """A model ``folder`` whose answers are learnt, to the ``share`` of the loss that is theirs.

    ``features``: modules of both networks, by dotted name, whose outputs are learnt too, with ``feature_weight``.
    ``cached``: so many batches, noise and all, come round again and again, and the teacher is asked once for each.
    """

    folder: str
    share: float = Field(0.5, ge=0, le=1)
    feature_weight: float = Field(0.0, ge=0)
    features: list[str] = []
    cached: int | None = Field(None, ge=1)


class TrainSection(Section):
    """The loop; README's table of techniques says what each key does, None or 0 means off.

    A step takes ``batch_size`` samples, in ``accumulate`` micro-batches.
    """

    steps: int = Field(ge=1, le=9_999_999)
    batch_size: int = Field(64, ge=1, le=2**24)
    accumulate: int = Field(1, ge=1, le=4096)
    device: str = "cpu"
    seed: int = Field(0, ge=0, lt=2**31)

    # precision and memory
    precision: Literal["float32", "bfloat16", "float16", "bfloat16_master", "bfloat16_stochastic"] = "float32"
    checkpointing: Literal["none", "full"] | list[str] = "none"
    memory: str | None = Field(None, pattern=r"^\d+(\.\d+)? ?(KiB|MiB|GiB|KB|MB|GB)$")
    step_in_backward: bool = False

    # optimiser
    optimizer: Literal["adamw", "muon", "schedule_free", "adamw_8bit"] = "adamw"
    learning_rate: float = Field(1e-4, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0, le=1)
    beta1: Share = 0.9
    beta2: float = Field(0.99, gt=0, lt=1)
    learning_rate_schedule: Literal[
        "constant",
        "linear",
        "cosine",
        "cosine_restarts",
        "triangular",
        "triangular2",
        "exp_range",
        "one_cycle",
        "wsd",
        "inverse_sqrt",
        "plateau",
    ] = "cosine"
    warmup_steps: int = Field(100, ge=0)
    cycle_steps: int | None = Field(None, ge=2)
    floor: Share = 0.0

    # objective
    label_dropout: Share = 0.1
    weighting: Literal["none", "min_snr", "p2", "edm", "learned"] = "none"
    min_snr_gamma: float = Field(5.0, gt=0)
    p2_gamma: float = Field(1.0, ge=0)
    levels: Literal["uniform", "edm", "logit_normal"] = "uniform"
    levels_mean: float | None = None
    levels_std: float | None = Field(None, gt=0)

    # stability
    clip_norm: float = Field(1.0, ge=0)
    clip_value: float | None = Field(None, gt=0)
    clip_zscore: float | None = Field(None, gt=0)
    weight_norm: Literal["none", "parametrized", "forced"] = "none"
    keep_zeros: bool = False
    skip_nonfinite: int = Field(10, ge=0)
    rewind_spikes: bool = False

    # averages of the weights
    ema_decay: Share = 0.999
    ema_dtype: Literal["float32", "bfloat16"] = "float32"
    ema_on_host: bool = False
    ema_profiles: list[Annotated[float, Field(ge=0.01, le=0.25)]] = []
    profile_every: int = Field(500, ge=1)

    # speed
    autotune: bool = False
    channels_last: bool = True
    fused_upsampling: bool = False
    compile: bool = False
    threads: int | None = Field(None, ge=1, le=1024)

    # what is written, and how often
    checkpoint_every: int = Field(500, ge=1)
    sample_every: int = Field(500, ge=1)
    log_every: int = Field(10, ge=1)
    validate_every: int | None = Field(None, ge=1)
    validate_samples: int = Field(256, ge=16)
    tensorboard: bool = False


FREE = {"data": {"workers"}, "train": {"sample_every", "log_every", "tensorboard"}}  # no weight depends on these


class Recipe(Section):
    """The whole recipe."""

    data: DataSection
    model: ModelSection = Field(default_factory=lambda: ModelSection.model_validate({}))
    train: TrainSection
    teacher: TeacherSection | None = None

    @property
    def identity(self) -> str:
        """What makes a run this one, as JSON: runs of one identity, on the same data, go on from each other."""
        return self.model_dump_json(exclude_defaults=True, exclude=FREE)

    @property
    def budget_bytes(self) -> int | None:
        """``train.memory`` as bytes."""
        return None if self.train.memory is None else num_bytes(self.train.memory)

    @property
    def least_bytes(self) -> int:
        """What a step needs at least: weights, and, of a micro-batch in a precision of two bytes, what the widest level
        keeps for the backward pass.  Raises BadInput for a model folder that can't be used."""
        samples = self.train.batch_size // self.train.accumulate
        if self.model.folder is not None:
            from hasten.model.config import read_folder

            return read_folder(self.model.folder).least_bytes(samples) // 2
        widths, layers = self.model.block_out_channels or [1], self.model.layers_per_block
        weights = 4 * sum(2 * layers * 9 * width**2 for width in widths)  # the second convolution of each block
        side = self.data.size // (1 if self.data.vae is None else VAE_SCALE)
        return weights + 2 * 2 * samples * side**2 * max(width >> 2 * level for level, width in enumerate(widths))


def read(path: Path | str) -> Recipe:
    """The recipe in a TOML file.  Raises BadInput that names the line, the key and what is allowed."""
    text = small_text(Path(path), LIMIT_BYTES, "recipe")
    try:
        return check(tomllib.loads(text), text, str(path))
    except BadInput:
        raise
    except RecursionError:
        raise BadInput(f"recipe {path} is not TOML: nested too deeply; see recipes/emoji32.toml") from None
    except ValueError as error:  # a TOMLDecodeError, or a number with more digits than Python prints
        raise BadInput(f"recipe {path} is not TOML: {' '.join(str(error).split())}") from error


def check(values: dict[str, Any], text: str, where: str) -> Recipe:
    """``values`` as a Recipe; ``text`` is what they were parsed from, for the line number.  Raises BadInput."""
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        # a key that is not known explains one that is missing
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    else:
        for key, problem in _conflicts(recipe):
            raise BadInput(f"{_place(where, text, key.split('.'))} {problem}")
        return recipe
    location = [str(part) for part in first["loc"]]
    place = _place(where, text, location)
    section = Recipe.model_fields.get(location[0])
    kinds = () if section is None else (section.annotation, *get_args(section.annotation))
    fields: Any = next((kind.model_fields for kind in kinds if hasattr(kind, "model_fields")), {})
    if first["type"] == "extra_forbidden":
        raise BadInput(f"{place} is not known{did_you_mean(location[-1], fields or Recipe.model_fields)}")
    if first["type"] == "missing":
        raise BadInput(f"{place} is missing; add it")
    if len(location) == 1:
        raise BadInput(f"{place} must be a table; write [{location[0]}]")
    allowed = _range(fields[location[1]].metadata) if len(location) == 2 else ""
    raise BadInput(f"{place} = {first['input']!r:.60}: {first['msg'].lower()}{allowed and f'; allowed: {allowed}'}")


def _conflicts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What no field alone can see: the key and the rest of a sentence about it."""
    data, options = recipe.data, recipe.train
    if data.name == "folder" and data.path is None:
        yield "data.path", "is missing, though data.name is 'folder'; add it"
    if data.name != "folder":
        for key in ("path", "buckets", "skip_bad"):
            if getattr(data, key):
                yield f"data.{key}", f"is only for data.name = 'folder', not for {data.name!r}; drop it"
    yield from _model_conflicts(recipe)
    yield from _teacher_conflicts(recipe)
    if options.warmup_steps >= options.steps:
        yield "train.warmup_steps", f"= {options.warmup_steps} must be less than train.steps = {options.steps}"
    if options.batch_size % options.accumulate:
        yield "train.accumulate", f"= {options.accumulate} does not divide train.batch_size = {options.batch_size}"
    if options.memory is not None and options.checkpointing != "none":
        yield "train.memory", "chooses what is checkpointed itself; drop train.checkpointing, or this"
    if options.clip_norm and options.clip_zscore:
        yield "train.clip_zscore", "limits the norm itself; set train.clip_norm = 0 beside it"
    if data.vae is not None and (data.flip or data.shift):
        yield "data.vae", "makes latents, which can't be flipped or shifted; drop data.flip and data.shift"
    if options.keep_zeros and options.step_in_backward:
        yield "train.keep_zeros", "does not go with step_in_backward, which steps out of its sight; drop one of them"
    if options.step_in_backward:
        if options.optimizer == "muon":
            yield "train.step_in_backward", "takes one weight at a time, muon all of one shape; use adamw"
        if options.weighting == "learned":
            yield "train.step_in_backward", "does not go with weighting = 'learned'; drop one of them"
        if options.clip_norm or options.clip_zscore:
            yield "train.step_in_backward", "uses gradients before their norm is known; set train.clip_norm = 0"
        if options.precision not in ("float32", "bfloat16"):
            yield "train.step_in_backward", f"does not go with precision = {options.precision!r}"
    if options.rewind_spikes and options.learning_rate_schedule == "plateau":
        yield "train.rewind_spikes", "does not go with learning_rate_schedule = 'plateau'; drop one of them"
    if options.learning_rate_schedule == "plateau" and options.validate_every is None:
        yield "train.learning_rate_schedule", "= 'plateau' follows the held-out loss; set train.validate_every"
    if options.optimizer == "schedule_free" and options.learning_rate_schedule != "constant":
        yield "train.optimizer", "= 'schedule_free' needs learning_rate_schedule = 'constant'; its warm-up is kept"


def _teacher_conflicts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    teacher, options = recipe.teacher, recipe.train
    if teacher is None:
        return
    if bool(teacher.features) != bool(teacher.feature_weight):
        yield "teacher.features", "and teacher.feature_weight belong together; give both or none"
    if options.weighting == "learned":
        yield "train.weighting", "= 'learned' follows the data's errors alone; drop it, or the teacher"
    if teacher.features and teacher.cached:
        yield "teacher.cached", "keeps answers alone; drop it, or teacher.features"
    if teacher.features and options.compile:
        yield "train.compile", "loses the features on their way; drop it, or teacher.features"
    if teacher.features and options.step_in_backward:
        yield "train.step_in_backward", "does not go with teacher.features; drop one of them"


def _model_conflicts(recipe: Recipe) -> Iterator[tuple[str, str]]:
    data, model = recipe.data, recipe.model
    if PAIRED.get(model.schedule, model.prediction) != model.prediction or (
        model.prediction in PAIRED.values() and model.schedule not in PAIRED
    ):
        yield "model.prediction", f"= {model.prediction!r} does not go with model.schedule = {model.schedule!r}"
    channels = model.block_out_channels
    if channels is None:
        return
    levels = len(channels)
    multiple = 2 ** (levels - 1)
    if data.size % multiple:
        below = data.size // multiple * multiple
        near = f"{below} or {below + multiple}" if below else f"{multiple}"
        yield "data.size", f"= {data.size} can't be halved {levels - 1} times ({levels} levels); use {near}"
    for count in channels:
        if count % model.norm_num_groups:
            yield (
                "model.block_out_channels",
                f"has {count}, no multiple of norm_num_groups = {model.norm_num_groups}",
            )
    for level in model.attention_levels:
        if level not in range(levels):
            yield "model.attention_levels", f"has {level}; the levels are 0 to {levels - 1}"
    for level in [*model.attention_levels, levels - 1]:  # the middle block, after the last level, always attends
        if channels[level] % model.attention_head_dim:
            yield (
                "model.attention_head_dim",
                f"= {model.attention_head_dim} does not divide the {channels[level]} channels of level {level}",
            )


def _range(bounds: list[Any]) -> str:
    """``">= 1, <= 8"`` of a field's bounds."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    return ", ".join(f"{sign} {getattr(b, name)}" for b in bounds for name, sign in signs.items() if hasattr(b, name))


def _place(where: str, text: str, location: list[str]) -> str:
    line = _line(text, location)
    return f"{where}{f', line {line}' if line else ''}: {'.'.join(location)}"


def _line(text: str, location: list[str]) -> int | None:
    """The line of ``[section]`` or of ``key =`` under it."""
    section = None
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[([\w.]+)\]", line)
        if header:
            section = header[1]
            if location == [section]:
                return number
        key = re.match(r"\s*([\w-]+)\s*=", line)
        if key and [p for p in (section, key[1]) if p] == location[:2]:
            return number
    return None
