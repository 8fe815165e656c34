"""Values from JSON, strictly typed: whatever is wrong is one line with the key, the value and what is allowed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hasten.errors import BadInput, did_you_mean, shown

FETCH_AGAIN = "copy or download it again"


class Checked(BaseModel):
    """Values from JSON: strict types, no NaN, no key that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())


Model = TypeVar("Model", bound=Checked)
Channels = Annotated[int, Field(ge=1, le=65_536)]


def parse_object(text: bytes, where: object) -> dict[str, Any]:
    """A JSON object, in Python's reading: diffusers itself writes ``-Infinity``.

    Raises BadInput when it is broken, is no object, or says a key twice.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply; {FETCH_AGAIN}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadInput(f"{where} is not JSON ({error}); {FETCH_AGAIN}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where} is a JSON {type(value).__name__}, not an object; {FETCH_AGAIN}")
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


def check_levels(channels: Sequence[int], groups: int, down: Sequence[str], up: Sequence[str]) -> None:
    """Raise ValueError where ``channels``, one a level, fit neither the blocks nor the norms' ``groups``."""
    for key, blocks in (("down_block_types", down), ("up_block_types", up)):
        if len(blocks) != len(channels):
            raise ValueError(f"{key} has {len(blocks)} entries, block_out_channels {len(channels)}")
    for each in channels:
        if each % groups:
            raise ValueError(f"block_out_channels {each} is no multiple of norm_num_groups {groups}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return result
