"""A training recipe: TOML in, one frozen value out; whatever is wrong is named with its line.

A run is known by the JSON of its recipe: a new field must leave the JSON of recipes without it as it was
(``exclude_if``), or their checkpoints no longer resume.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hasten.errors import BadInput, did_you_mean


class Section(BaseModel):
    """A table of the recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(Section):
    """What to train on: ``emoji``, ``digits`` or ``folder`` (with ``path``), at ``size`` pixels.

    ``skip_bad`` passes over pictures of a folder that can't be read, a tenth of them at most.
    """

    name: Literal["emoji", "digits", "folder"]
    size: int = Field(32, ge=8, le=1024)
    path: str | None = None
    skip_bad: bool = Field(False, exclude_if=lambda value: not value)


class ModelSection(Section):
    """A diffusers ``UNet2DModel`` and its noise schedule."""

    block_out_channels: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1, max_length=8)
    layers_per_block: int = Field(1, ge=1, le=8)
    attention_levels: list[int] = []
    attention_head_dim: int = Field(32, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    timesteps: int = Field(1000, ge=10, le=10_000)
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"


class TrainSection(Section):
    """The loop.  ``learning_rate`` warms up linearly over ``warmup_steps`` and falls by a cosine to 0."""

    steps: int = Field(ge=1, le=9_999_999)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    warmup_steps: int = Field(100, ge=0)
    weight_decay: float = Field(0.0, ge=0, le=1)
    beta2: float = Field(0.99, gt=0, lt=1)
    clip_norm: float | None = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    label_dropout: float = Field(0.1, ge=0, lt=1)
    weighting: Literal["none", "min_snr"] = "none"
    min_snr_gamma: float = Field(5.0, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    seed: int = 0
    checkpoint_every: int = Field(500, ge=1)
    sample_every: int = Field(500, ge=1)


class Recipe(Section):
    """The whole recipe."""

    data: DataSection
    model: ModelSection
    train: TrainSection


def read(path: Path | str) -> Recipe:
    """The recipe in a TOML file.  Raises BadInput that names the line, the key and what is allowed."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise BadInput(f"recipe {path}: {error.strerror}; pass a TOML file such as recipes/emoji32.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"recipe {path} is not TOML: {error}") from error
    return check(values, text, str(path))


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
    fields = getattr(section.annotation, "model_fields", {}) if section else {}
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
    data, model, options = recipe.data, recipe.model, recipe.train
    channels, levels = model.block_out_channels, len(model.block_out_channels)
    multiple = 2 ** (levels - 1)
    if data.size % multiple:
        below = data.size // multiple * multiple
        near = f"{below} or {below + multiple}" if below else f"{multiple}"
        yield "data.size", f"= {data.size} can't be halved {levels - 1} times ({levels} levels); use {near}"
    if data.name == "folder" and data.path is None:
        yield "data.path", "is missing, though data.name is 'folder'; add it"
    if data.name != "folder" and data.path is not None:
        yield "data.path", f"is only for data.name = 'folder', not for {data.name!r}; drop it"
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
    if options.warmup_steps >= options.steps:
        yield "train.warmup_steps", f"= {options.warmup_steps} must be less than train.steps = {options.steps}"


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
