"""The model that comes with hasten: class-conditional emoji, 32x32 RGB, trained by ``recipes/emoji32.toml``."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

BUNDLED = ("emoji32",)


def folder(name: str = "emoji32") -> Path:
    """The bundled model's diffusers folder."""
    return Path(str(resources.files("hasten.model").joinpath(name)))
