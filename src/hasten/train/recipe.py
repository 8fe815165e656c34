"""A training recipe: TOML in, one frozen value out; whatever is wrong is named with its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hasten.errors import BadInput, did_you_mean


class Section(BaseModel):
    """A table of the recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataSection(Section):
    """What to train on: ``emoji``, ``digits`` or ``folder`` (with ``path``), at ``size`` pixels."""

    name: Literal["emoji", "digits", "folder"]
    size: int = Field(32, ge=8, le=1024)
    path: str | None = None


class ModelSection(Section):
    """A diffusers ``UNet2DModel`` and its noise schedule."""

    block_out_channels: list[int] = Field(min_length=1)
    layers_per_block: int = Field(1, ge=1, le=8)
    attention_levels: list[int] = []
    attention_head_dim: int = Field(32, ge=1)
    norm_num_groups: int = Field(8, ge=1)
    schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "squaredcos_cap_v2"
    timesteps: int = Field(1000, ge=10, le=10_000)
    prediction: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"


class TrainSection(Section):
    """The loop.  ``learning_rate`` warms up linearly over ``warmup_steps`` and falls by a cosine to 0."""

    steps: int = Field(ge=1)
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"recipe {path} is not TOML: {error}") from error
    return check(values, text, str(path))


def check(values: dict[str, Any], text: str, where: str) -> Recipe:
    """``values`` as a Recipe; ``text`` is what they were parsed from, for the line number."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    line = _line(text, location)
    place = f"{where}{f', line {line}' if line else ''}: {'.'.join(location)}"
    if first["type"] == "extra_forbidden":
        section = Recipe.model_fields.get(location[0])
        known = Recipe.model_fields if len(location) == 1 or section is None else section.annotation.model_fields  # type: ignore[union-attr]
        raise BadInput(f"{place} is not known{did_you_mean(location[-1], known)}")
    if first["type"] == "missing":
        raise BadInput(f"{place} is missing; add it")
    raise BadInput(f"{place} = {first['input']!r}: {first['msg'].lower()}")


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
