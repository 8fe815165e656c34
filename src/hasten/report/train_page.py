"""A training run's folder into report.html: curves, grids over time, where time went, what was skipped.

Works on a run that is finished, still going, or was killed: all it reads are the figures that were written, and the
grids.  Long curves are drawn by stretches, with the lowest and the highest of each, so that no spike is lost.
"""

from __future__ import annotations

import base64
import os
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from hasten.files import write_text
from hasten.report import page, train_run, words
from hasten.report.columns import binned, running_mean
from hasten.report.svg import AFTER, BEFORE, LETTER, LINEAR, LOG, MUTED, WARN, Axis, Panel, both, short, spanning
from hasten.report.terminal import plain

MOST_POINTS = 300
MOST_GRIDS = 6
MOST_ROWS = 50
MOST_PICTURE_BYTES = 32 * 10**6
GRID_NAME = re.compile(r"samples-(\d{1,12})\.png", re.ASCII)
PNG = b"\x89PNG\r\n\x1a\n"
SMOOTH = 0.05  # the share of a curve that its running mean spans

Lines = list[dict[str, Any]]


def write(folder: Path) -> Path:
    """Write ``folder/report.html`` from the run's ``metrics.jsonl`` and ``run.json``."""
    path = folder / "report.html"
    write_text(path, render(folder))
    return path


def render(folder: Path) -> str:
    """The page.  Raises BadInput for a folder without a run."""
    run = train_run.read(folder)
    recipe = {} if run.about is None else run.about.recipe.model_dump()
    name = plain(folder.resolve().name)
    pictures, left_out = grids(folder)
    seconds = dict(run.phases())
    whole = sum(seconds.values()) or 1.0
    return (
        page.templates()
        .get_template("train.html.j2")
        .render(
            folder=name,
            run=run,
            recipe=recipe,
            environment=run.about and run.about.environment,
            parameters=run.about and run.about.parameters,
            command=run.about.command if run.about else f"hasten train recipe.toml --out {shlex.quote(name)}",
            state=state(run),
            loss=last(run, "loss"),
            peak=top(run, "peak_bytes"),
            stall=mean(run, "stall"),
            images_per_second=mean(run, "images_per_second"),
            phases=[{"name": name, "seconds": each, "share": each / whole} for name, each in seconds.items()],
            validations=run.validations[-MOST_ROWS:],
            levels=sorted({s for line in run.validations for s in line["losses"]}, key=float),
            best=next((line for line in run.validations if line["best"]), None),
            audit=run.of("audit")[-1:],
            tuned=run.of("autotune")[-1:],
            most_rows=MOST_ROWS,
            grids=pictures,
            left_out=left_out,
            settings=settings(recipe),
            loss_chart=loss_chart(run),
            validation_chart=validation_chart(run.validations),
            gradient_chart=curve(run, "gradient norm, before clipping", "gradient_norm", log_scale=True),
            rate_chart=curve(run, "learning rate", "learning_rate"),
            memory_chart=curve(run, "memory in use", "memory_bytes", words.size),
            speed_chart=curve(run, "images per second", "images_per_second"),
            stall_chart=curve(run, "share of a step spent waiting for data", "stall", words.share),
        )
    )


def state(run: train_run.Record) -> str:
    """Where the run is, in words."""
    if run.finished:
        return f"finished after {run.step:,} steps"
    done = f"{run.step:,}{'' if run.steps is None else f' of {run.steps:,}'} steps done"
    if not run.held:
        return f"{done}, not running"
    left = run.seconds_left
    return done if left is None else f"{done}, {words.seconds(left)} left"


def last(run: train_run.Record, name: str) -> float | None:
    """The newest finite figure of that name."""
    found = values(run, name)[1]
    return float(found[-1]) if len(found) else None


def top(run: train_run.Record, name: str) -> float | None:
    """The largest one."""
    found = values(run, name)[1]
    return float(found.max()) if len(found) else None


def mean(run: train_run.Record, name: str) -> float | None:
    """Their mean."""
    found = values(run, name)[1]
    return float(found.mean()) if len(found) else None


def settings(recipe: dict[str, dict[str, Any] | None]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """The recipe by section, what is off left out, whole sections too."""
    off: tuple[Any, ...] = (None, False, [], 0)
    return [
        (section, [(key, value) for key, value in values.items() if value not in off or value == "none"])
        for section, values in recipe.items()
        if values is not None
    ]


def grids(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The grids of samples, evenly over the run, first and last among them; and how many files were left out."""
    named = [(int(name[1]), path) for path in folder.iterdir() if (name := GRID_NAME.fullmatch(path.name))]
    found = sorted((step, path) for step, path in named if stat.S_ISREG(path.lstat().st_mode))
    chosen = sorted({round(place) for place in np.linspace(0, len(found) - 1, min(MOST_GRIDS, len(found)))})
    shown = [(found[n][0], picture(found[n][1])) for n in chosen]
    return [
        {"step": step, "uri": f"data:image/png;base64,{base64.b64encode(png).decode()}"}
        for step, png in shown
        if png is not None
    ], len(named) - len(found) + sum(png is None for _, png in shown)


def picture(path: Path) -> bytes | None:
    """The PNG in a regular file of less than MOST_PICTURE_BYTES; None for all else: no link is followed, no pipe waited
    for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        content = file.read(MOST_PICTURE_BYTES)
    return content if content.startswith(PNG) and len(content) < MOST_PICTURE_BYTES else None


def values(run: train_run.Record, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and figures of that name, where there is one."""
    x, y = run.columns["step"], run.columns[name]
    finite = np.isfinite(y)
    return x[finite], y[finite]


def loss_chart(run: train_run.Record) -> Markup | None:
    """The training loss and its running mean."""
    x, y = values(run, "loss")
    if len(x) < 2:
        return None
    smooth = running_mean(y, max(round(SMOOTH * len(y)), 1))
    raw, thick = (binned(x, heights, MOST_POINTS) for heights in (y, smooth))

    def draw(width: int) -> list[Panel]:
        key = ((MUTED, 2.0, "each step"), (AFTER, 2.0, "running mean"))
        panel = Panel(_steps(x), _heights(y), width, 230, "training loss", key=key)
        panel.band_(raw.x, raw.low, raw.high, MUTED, "0.35")
        panel.line_(raw.x, raw.mean, MUTED, 0.8)
        panel.line_(thick.x, thick.mean, AFTER, 2.0)
        panel.answer_(thick.x, thick.mean, _at_step)
        return [panel]

    return both(f"Training loss from {y[0]:.3g} to {smooth[-1]:.3g}.", draw)


def validation_chart(found: Lines) -> Markup | None:
    """Held-out loss by noise level."""
    levels = sorted(found[-1]["losses"], key=float) if found else []
    rows = [(n, line["step"], line["losses"][s]) for n, s in enumerate(levels) for line in found if _has(line, s)]
    if len(found) < 2 or not rows:
        return None
    level, steps, losses = np.asarray(rows, dtype=np.float64).T

    def draw(width: int) -> list[Panel]:
        names = [f"s = {level}" for level in levels]
        room = LETTER * max(map(len, names)) + 10
        panel = Panel(_steps(steps), _heights(losses), width, 230, "held-out loss by noise level s", room=room)
        ends = []
        for n in np.unique(level).astype(int).tolist():
            x, y = steps[level == n], losses[level == n]
            panel.line_(x, y, AFTER, 1.6, stroke_opacity=f"{0.35 + 0.65 * n / max(len(levels) - 1, 1):.2f}")
            panel.answer_(x, y, lambda step, loss, name=names[n]: f"{name}, {_at_step(step, loss)}")  # type: ignore[misc]
            ends.append((float(x[-1]), float(y[-1]), names[n]))
        panel.name_ends_(ends)
        return [panel]

    return both("Held-out loss by noise level; the numbers are in the table.", draw)


def curve(
    run: train_run.Record, title: str, key: str, text: Callable[[float], str] = words.number, log_scale: bool = False
) -> Markup | None:
    """One figure over the steps; ``text`` says it."""
    x, y = values(run, key)
    if len(x) < 2:
        return None
    clipped = (run.columns["clip_scale"] < 0.999) & np.isfinite(run.columns[key])
    dotted = key == "gradient_norm" and bool(clipped.any()) and not clipped.all()
    places = np.flatnonzero(clipped)[:: -(-int(clipped.sum()) // MOST_POINTS) or 1]
    found = binned(x, y, MOST_POINTS)

    def draw(width: int) -> list[Panel]:
        up = _heights(y) if log_scale else spanning(y, zero=True, text=short(text))
        panel = Panel(_steps(x), up, width, 190, title, key=[(WARN, 5.0, "clipped")] if dotted else [])
        panel.band_(found.x, found.low, found.high, MUTED, "0.3")
        panel.line_(found.x, found.mean, BEFORE if log_scale else AFTER)
        for n in places if dotted else []:
            panel.point_(run.columns["step"][n], run.columns[key][n], "", 2.0, fill=WARN)
        panel.answer_(found.x, found.mean, lambda step, value: _at_step(step, value, text))
        return [panel]

    return both(f"{title}: {text(float(np.median(y)))} in the middle, {text(float(y.max()))} at most.", draw)


def _has(line: dict[str, Any], level: str) -> bool:
    return line["losses"].get(level) is not None


def _at_step(step: float, value: float, text: Callable[[float], str] = words.number) -> str:
    return f"step {words.whole(step)}: {text(value)}"


def _steps(x: NDArray[np.float64]) -> Axis:
    return spanning(x, 0.0, label="step", whole=True)


def _heights(y: NDArray[np.float64]) -> Axis:
    """A logarithmic axis where the numbers allow one."""
    kind = LOG if y.min() > 0 else LINEAR
    return spanning(y, 0.05, kind)
