"""profile.json into profile.html: one file that loads nothing and runs nothing.

The tree of modules is drawn as an icicle (a flame graph that hangs down): a box a module, as wide as its inclusive
time, in the order of calls; what is left of a box under its children is the module's own time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hasten.files import write_text
from hasten.report import page, profile_file, words
from hasten.report.profile_text import cost, intensity, reached
from hasten.report.svg import AFTER, BEFORE, Chart, both

NARROWEST = 0.002  # share of the whole under which a box is left out
MOST_ROWS = 60
PIXELS_PER_INCH = 72
TONES = {"Conv": "conv", "Linear": "linear", "Norm": "norm", "Attention": "attention"}


@dataclass(frozen=True)
class Box:
    """One module of the icicle; ``left`` and ``width`` in percent of the whole, ``depth`` from 0."""

    label: str
    title: str
    tone: str
    depth: int
    left: str
    width: str


def write(folder: Path) -> Path:
    """Write ``folder/profile.html`` from ``folder/profile.json``.  Raises BadInput when it is none."""
    path = folder / "profile.html"
    write_text(path, render(profile_file.read(folder / "profile.json")))
    return path


def render(result: dict[str, Any]) -> str:
    """The page."""
    environment = page.templates()
    environment.filters |= {"cost": cost}
    modules = result["modules"]
    own = [] if modules is None else sorted(modules["rows"], key=lambda row: -row["exclusive_seconds"])
    gpu = result["environment"]["gpu"]
    boxes = [] if modules is None else icicle(modules["rows"])
    return environment.get_template("profile.html.j2").render(
        result=result,
        machine=gpu["name"] if gpu and result["device"] != "cpu" else result["environment"]["cpu"] or "unknown",
        headline=(result["headline"] or f"Profile of {result['subject']}").replace(" %", f"{words.NBSP}%"),
        boxes=boxes,
        levels=1 + max((box.depth for box in boxes), default=0),
        modules=modules,
        costliest=own[:MOST_ROWS],
        operators=None if result["ops"] is None else result["ops"]["rows"][:MOST_ROWS],
        steps_chart=steps_chart(result["steps"]),
        memory_chart=memory_chart(result["memory"]),
        intensity=intensity,
        reached=reached,
    )


def icicle(rows: list[dict[str, Any]]) -> list[Box]:
    """Boxes of the tree: rows come depth first, siblings in the order of their calls."""
    whole = rows[0]["inclusive_seconds"]
    starts = {0: 0.0}  # by depth, where the next box begins
    names: dict[int, str] = {}
    boxes = []
    for row in rows:
        depth, seconds = row["depth"], row["inclusive_seconds"]
        left = starts.setdefault(depth, 0.0)
        starts[depth], starts[depth + 1] = left + seconds, left
        names[depth] = row["name"]
        if seconds / whole < NARROWEST:
            continue
        share = f"{words.seconds(seconds)}, {words.share(seconds / whole)}"
        own = f"own {words.seconds(row['exclusive_seconds'])}"
        boxes.append(
            Box(
                "one evaluation" if depth == 0 else row["name"].removeprefix(f"{names.get(depth - 1)}."),
                f"{row['name']} {row['kind']}: {share}; {own}; {reached(row['bound_seconds'], seconds)} of its bound",
                next((tone for part, tone in TONES.items() if part in row["kind"]), ""),
                depth,
                f"{100 * left / whole:.3f}",
                f"{100 * seconds / whole:.3f}",
            )
        )
    return boxes


def steps_chart(steps: dict[str, Any] | None) -> Markup | None:
    """Seconds of each evaluation of a sample."""
    if steps is None:
        return None
    taken = steps["network_seconds"]

    def draw(width: int) -> Chart:
        figure, axes = _axes(width)
        axes.bar(range(1, len(taken) + 1), [1e3 * s for s in taken], color=AFTER)
        axes.axhline(1e3 * steps["steady_seconds"], color=BEFORE, lw=1.5)
        axes.set_xlabel("evaluation")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_title("ms in the network; line: steady state")
        numbers = range(1, len(taken) + 1)
        said = lambda n, ms: f"evaluation {n:.0f}: {words.seconds(ms / 1e3)}"  # noqa: E731
        return Chart(figure).follow_(axes, numbers, [1e3 * s for s in taken], said)

    return both("steps", f"Seconds of {len(taken)} evaluations, one bar each.", draw)


def memory_chart(memory: dict[str, Any] | None) -> Markup | None:
    """Live tensors over time."""
    if memory is None:
        return None

    def draw(width: int) -> Chart:
        figure, axes = _axes(width)
        seconds, size = zip(*memory["timeline"], strict=True)
        axes.fill_between(seconds, [s / 1e6 for s in size], step="post", color=AFTER, lw=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("seconds, slowed down by following each tensor")
        axes.set_title("MB of live tensors")
        said = lambda at, held: f"after {words.seconds(at)}: {words.size(held * 1e6)}"  # noqa: E731
        return Chart(figure).follow_(axes, seconds, [s / 1e6 for s in size], said)

    return both("memory", f"Live tensors over time, at most {words.size(memory['peak_bytes'])}.", draw)


def _axes(width: int) -> tuple[Figure, Any]:
    height = 230
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    axes = figure.add_axes((46 / width, 48 / height, 1 - 62 / width, 1 - 78 / height))
    return figure, axes
