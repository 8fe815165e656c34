"""profile.json into profile.html: one file that loads nothing and runs its own script alone.

The tree of modules is drawn as an icicle (a flame graph that hangs down): a box a module, as wide as its inclusive
time, in the order of calls; what is left of a box under its children is the module's own time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hasten.files import write_text
from hasten.report import page, profile_file, words
from hasten.report.profile_text import cost, intensity, reached
from hasten.report.svg import AFTER, INK, Axis, Panel, both, short, spanning, stairs

NARROWEST = 0.002  # share of the whole under which a box is left out
MOST_ROWS = 60
SLOWED = "time, slowed down by following each tensor"
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
    taken, steady = steps["network_seconds"], steps["steady_seconds"]

    def draw(width: int) -> list[Panel]:
        across = Axis(0.4, len(taken) + 0.6, label="evaluation", whole=True, grid=False)
        up = spanning([*taken, steady], zero=True, text=short(words.seconds))
        panel = Panel(across, up, width, 230, "time in the network")
        for n, seconds in enumerate(taken, start=1):
            said = f"evaluation {n}: {words.seconds(seconds)}"
            panel.bar_((n - 0.4, n + 0.4), (0.0, seconds), said, fill=AFTER)
        panel.rule_(steady, INK, f"steady state {words.seconds(steady)}", "4 3")
        return [panel]

    return both(f"Seconds of {len(taken)} evaluations, one bar each.", draw)


def memory_chart(memory: dict[str, Any] | None) -> Markup | None:
    """Live tensors over time."""
    if memory is None:
        return None

    def draw(width: int) -> list[Panel]:
        seconds, size = zip(*memory["timeline"], strict=True)
        across = spanning(seconds, 0.0, text=short(words.seconds), label=SLOWED)
        panel = Panel(across, spanning(size, zero=True, text=short(words.size)), width, 230, "live tensors", room=24)
        x, y = stairs(seconds, size)
        panel.band_(x, np.zeros_like(y), y, AFTER, "0.16")
        panel.line_(x, y, AFTER)
        panel.answer_(seconds, size, lambda at, held: f"after {words.seconds(at)}: {words.size(held)}")
        return [panel]

    return both(f"Live tensors over time, at most {words.size(memory['peak_bytes'])}.", draw)
