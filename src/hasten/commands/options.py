"""What the commands share: options, what their words mean, and the checks that need no torch."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hasten import guard
from hasten.errors import BadInput, did_you_mean
from hasten.files import cache_folder, num_bytes, why
from hasten.report import terminal

if TYPE_CHECKING:  # they import torch
    from hasten.data.array import Data
    from hasten.model.source import Source

LONGEST = 8760 * 3600  # seconds: a year


class Number(click.FloatRange):
    """A number in a range, and so no NaN, which click's own ranges let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """``value`` as a finite number."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Seconds(click.ParamType[float]):
    """``90``, ``90s``, ``5m`` or ``1h`` in seconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds that ``value`` says."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not found or not float(found[1]):
            self.fail(f"{value!r} is no time; write 90s, 5m or 1h", param, ctx)
        seconds = float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
        if seconds > LONGEST:
            self.fail(f"{value!r} is longer than {LONGEST // 3600}h", param, ctx)
        return seconds


class Budget(click.ParamType[tuple[str, float]]):
    """``quality=2%`` as 0.02 of quality, ``memory=500MB`` and ``size=5MB`` as bytes."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """What is bounded, and by how much."""
        if isinstance(value, tuple):
            return value
        kind, _, amount = str(value).partition("=")
        percent = re.fullmatch(r"(\d+(?:\.\d+)?)%", amount)
        if kind == "quality" and percent and float(percent[1]) <= 1000:
            return kind, float(percent[1]) / 100
        size = num_bytes(amount) if kind in ("memory", "size") else None
        if not size:
            self.fail(f"{value!r} is no budget; write quality=2%, memory=500MB or size=5MB", param, ctx)
        return kind, size


SEED = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of all random numbers."
)
OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
RESUME = click.option("--resume", is_flag=True, help="Go on from what --out holds.")
GUIDANCE = click.option(
    "--guidance", default=1.0, show_default=True, type=Number(-1000, 1000),
    help="Classifier-free guidance; 1 is none.",
)  # fmt: skip
STEPS = click.option(
    "--steps",
    default=50,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Of the model's own sampler: the baseline.",
)
DEVICE = click.option("--device", default="cpu", show_default=True, help="Where torch computes: cpu, cuda.")
FEATURES = click.option(
    "--features", metavar="MODULE:CALLABLE", help="Your own extractor: samples (n, *shape) to vectors (n, d)."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def say(text: str) -> None:
    """Print what may hold names of files, none of which reaches the terminal as a command to it."""
    click.echo(terminal.plain(text, keep="\n"))


def exists(path: Path) -> bool:
    """Whether something is there, be it a link to nothing; raises BadInput for what can't be a path here."""
    try:
        str(path).encode()
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except UnicodeEncodeError:
        raise BadInput(f"{path}: the name is not UTF-8; rename it") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {why(error)}; check the path") from None
    return True


def check(
    *sources: str,
    data: str | None = None,
    out: Path | None = None,
    images: int = 0,
    kept: int = 0,
    device: str = "cpu",
    copies: int = 0,
    prepares: bool = False,
) -> None:
    """Raise BadInput, before torch is imported, for a model, data or a folder to write to that can't be used.

    A model's sampling of ``images`` at once must have room in memory, with ``kept`` samples beside; so many ``copies``
    of the first model's float32 weights on the disk of ``out``, and, where a command ``prepares`` graphs, of the cache.
    """
    if out is not None:
        check_out(out)
    if data is not None and data not in ("emoji", "digits") and not (exists(Path(data)) and Path(data).is_dir()):
        raise BadInput(f"data {data!r} is no folder and no known name{did_you_mean(data, ('emoji', 'digits'))}")
    for text in sources:
        folder, plus, plan = text.rpartition("+")
        if not plus or exists(Path(text)):
            folder, plan = text, ""
        if plan and not exists(Path(plan)):
            raise BadInput(f"plan {plan} does not exist; pass a plan.toml")
        from hasten.model.config import read_folder

        place, weights = Path(folder), True
        if exists(place) and exists(place / "artifact.json"):
            if not (place / "source").is_dir():  # a module of a person's own
                continue
            place, weights = place / "source", False
        spec = read_folder(place, weights)
        if device == "cpu":
            many = f"{text}: {images} at once of shape {spec.shape}" if images else text
            guard.check_memory(spec.least_bytes(images) + kept * spec.sample_bytes, many)
        if out is not None and copies and text == sources[0]:
            needed = copies * spec.float32_bytes
            for disk in (out, *([cache_folder()] if prepares else ())):
                guard.check_room(disk, needed, f"{copies} copies of the weights" if copies > 1 else "the weights")


def check_out(out: Path) -> None:
    if exists(out) and not out.is_dir():
        raise BadInput(f"--out {out} is a file; name a folder that is not there yet")
    there = out.absolute()
    while not exists(there):
        there = there.parent
    if not there.is_dir():
        raise BadInput(f"--out {out}: {there} is no folder; choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"--out {out}: {there} can't be written to; choose another")


def data_for(source: Source, name: str | None) -> Data | None:
    """The data of that name at the size of the model's pictures."""
    if name is None:
        return None
    from hasten.data import loader

    if len(source.shape) != 3:
        raise BadInput(f"{source.name} makes samples of shape {source.shape}; --data takes pictures only")
    return loader.by_name(name, (source.shape[1], source.shape[2]), channels=source.shape[0], skip_bad=True)
