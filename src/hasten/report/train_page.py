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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hasten.console import plain
from hasten.files import write_text
from hasten.report import page, train_run, words
from hasten.report.svg import AFTER, BEFORE, MUTED, WARN, Chart, both

MOST_POINTS = 300
MOST_GRIDS = 6
MOST_ROWS = 50
MOST_PICTURE_BYTES = 32 * 10**6
GRID_NAME = re.compile(r"samples-(\d{1,12})\.png", re.ASCII)
PNG = b"\x89PNG\r\n\x1a\n"
PIXELS_PER_INCH = 72
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
            gradient_chart=curve(run, "gradient", "gradient norm, before clipping", "gradient_norm", log_scale=True),
            rate_chart=curve(run, "rate", "learning rate", "learning_rate"),
            memory_chart=curve(run, "memory", "MB of memory in use", "memory_bytes", scale=1e-6),
            speed_chart=curve(run, "speed", "images per second", "images_per_second"),
            stall_chart=curve(run, "stall", "% of a step spent waiting for data", "stall", scale=100.0),
        )
    )


def state(run: train_run.Run) -> str:
    """Where the run is, in words."""
    if run.finished:
        return f"finished after {run.step:,} steps"
    done = f"{run.step:,}{'' if run.steps is None else f' of {run.steps:,}'} steps done"
    if not run.held:
        return f"{done}, not running"
    left = run.seconds_left
    return done if left is None else f"{done}, {words.seconds(left)} left"


def last(run: train_run.Run, name: str) -> float | None:
    """The newest finite figure of that name."""
    found = values(run, name)[1]
    return float(found[-1]) if len(found) else None


def top(run: train_run.Run, name: str) -> float | None:
    """The largest one."""
    found = values(run, name)[1]
    return float(found.max()) if len(found) else None


def mean(run: train_run.Run, name: str) -> float | None:
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


def values(run: train_run.Run, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and figures of that name, where there is one."""
    x, y = run.columns["step"], run.columns[name]
    finite = np.isfinite(y)
    return x[finite], y[finite]


def loss_chart(run: train_run.Run) -> Markup | None:
    """The training loss and its running mean."""
    x, y = values(run, "loss")
    if len(x) < 2:
        return None
    smooth = train_run.running_mean(y, max(round(SMOOTH * len(y)), 1))

    def draw(width: int) -> Chart:
        figure, axes = _axes(width)
        raw = train_run.binned(x, y, MOST_POINTS)
        axes.fill_between(raw.x, raw.low, raw.high, color=MUTED, alpha=0.35, lw=0.8)
        thick = train_run.binned(x, smooth, MOST_POINTS)
        axes.plot(thick.x, thick.mean, color=AFTER, lw=1.8)
        _log(axes, y)
        axes.set_title("training loss and its running mean")
        axes.set_xlabel("step")
        return Chart(figure).follow_(axes, thick.x, thick.mean, _at_step)

    return both("loss", f"Training loss from {y[0]:.3g} to {smooth[-1]:.3g}.", draw)


def validation_chart(found: Lines) -> Markup | None:
    """Held-out loss by noise level."""
    levels = sorted(found[-1]["losses"], key=float) if found else []
    if len(found) < 2 or all(line["losses"].get(level) is None for line in found for level in levels):
        return None

    def draw(width: int) -> Chart:
        figure, axes = _axes(width)
        chart = Chart(figure)
        everything = []
        for n, level in enumerate(levels):
            rows = [(line["step"], line["losses"][level]) for line in found if line["losses"].get(level) is not None]
            x, y = np.asarray(rows, dtype=np.float64).reshape(-1, 2).T
            if not rows:
                continue
            everything.append(y)
            chart.follow_(axes, x, y, lambda step, loss, level=level: f"s = {level}, {_at_step(step, loss)}")  # type: ignore[misc]
            axes.plot(x, y, color=AFTER, lw=1.4, alpha=0.35 + 0.65 * n / max(len(levels) - 1, 1))
            axes.annotate(f"s = {level}", (x[-1], y[-1]), (4, 0), textcoords="offset points", va="center", fontsize=10)
        _log(axes, np.concatenate(everything))
        axes.set_title("held-out loss by noise level s")
        axes.set_xlabel("step")
        axes.margins(x=0.14)
        return chart

    return both("validation", "Held-out loss by noise level; the numbers are in the table.", draw)


def curve(
    run: train_run.Run, name: str, title: str, key: str, *, scale: float = 1.0, log_scale: bool = False
) -> Markup | None:
    """One figure over the steps."""
    x, y = values(run, key)
    y = y * scale
    if len(x) < 2:
        return None
    clipped = (run.columns["clip_scale"] < 0.999) & np.isfinite(run.columns[key])

    def draw(width: int) -> Chart:
        figure, axes = _axes(width, 180)
        found = train_run.binned(x, y, MOST_POINTS)
        axes.fill_between(found.x, found.low, found.high, color=MUTED, alpha=0.3, lw=0)
        axes.plot(found.x, found.mean, color=BEFORE if log_scale else AFTER, lw=1.2)
        if key == "gradient_norm" and clipped.any() and not clipped.all():
            every = -(-int(clipped.sum()) // MOST_POINTS)
            places = np.flatnonzero(clipped)[::every]
            axes.plot(run.columns["step"][places], run.columns[key][places], ".", color=WARN, ms=3)
        if log_scale:
            _log(axes, y)
        else:
            axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_xlabel("step")
        return Chart(figure).follow_(axes, found.x, found.mean, _at_step)

    return both(name, f"{title}: {words.number(float(np.median(y)))} in the middle, {words.number(float(y.max()))} at "
                "most.", draw)  # fmt: skip


def _at_step(step: float, value: float) -> str:
    return f"step {words.whole(step)}: {words.number(value)}"


def _log(axes: Any, y: NDArray[np.float64]) -> None:
    """A logarithmic axis with plain numbers on it, where the numbers allow one."""
    if y.min() <= 0:
        return
    axes.set_yscale("log")
    shown: Callable[[float, Any], str] = lambda value, _: f"{value:g}"  # noqa: E731
    axes.yaxis.set_major_formatter(shown)
    axes.yaxis.set_minor_formatter(_few(y, shown))


def _few(y: NDArray[np.float64], shown: Callable[[float, Any], str]) -> Callable[[float, Any], str]:
    """Numbers on the minor ticks too, where a decade or less is shown."""
    narrow = y.max() / y.min() < 12
    first: Sequence[str] = ("2", "5") if narrow else ()
    return lambda value, place: shown(value, place) if f"{value:e}"[0] in first else ""


def _axes(width: int, height: int = 230) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    axes = figure.add_axes((52 / width, 48 / height, 1 - 68 / width, 1 - 78 / height))
    return figure, axes
