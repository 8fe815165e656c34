"""The report's charts: speed against quality, what each technique added, the rounds, curves of samples.

Each function takes what it draws and a width in CSS pixels, and gives panels.  Cost in seconds is better low; ratios
are speed-ups (baseline/candidate).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hasten.report import svg, words
from hasten.report.points import Pair, by_loss, points
from hasten.report.result import Part, Ratio, Result
from hasten.report.svg import Axis, Panel, bent, short, spanning, stairs


def speed_against_quality(result: Result, width: int) -> list[Panel]:
    """Every candidate by seconds per image (log) and loss or drift, with the Pareto front as a staircase."""
    found, loss = points(result), by_loss(result)
    budget = result.quality.budget if loss and result.quality is not None else None
    kind, text = (bent(0.02), words.change) if loss else (svg.LINEAR, words.decibel)
    across = spanning([p.seconds for p in found], 0.06, svg.LOG, text=short(words.seconds), label="time per image, log")
    heights = [p.quality for p in found] + ([] if budget is None else [budget])
    up = spanning(heights, 0.08, kind, text=short(text))
    panel = Panel(across, up, width, 380 if width > 500 else 340, "loss against the baseline" if loss else "drift")
    if budget is not None:
        panel.rule_(budget, svg.WARN, f"budget {words.share(budget)}", "4 3")
    front = sorted((p for p in found if p.on_front), key=lambda p: p.seconds)
    panel.line_(*stairs([p.seconds for p in front], [p.quality for p in front]), svg.AFTER, avoid=True)
    for p in sorted(found, key=lambda p: (p.chosen, p.on_front)):
        quality = f"loss {words.change(p.quality)}" if loss else f"drift {words.decibel(p.quality)}"
        number = f"{p.number}. " if p.number else ""
        said = f"{number}{p.name}: {words.seconds(p.seconds)} per image, {quality}"
        shape = "diamond" if p.chosen else "circle" if p.number else "square"
        fill = svg.BEFORE if p.number == 0 else svg.AFTER if p.on_front or p.chosen else svg.PAGE
        edge = svg.INK if p.chosen else svg.MUTED if fill == svg.PAGE else fill
        radius = 5.0 if p.chosen or p.number == 0 else 4.0
        panel.point_(p.seconds, p.quality, said, radius, shape, fill=fill, stroke=edge)
    for p in sorted(found, key=lambda p: (not p.chosen, p.number)):
        if p.on_front or p.chosen or p.number == 0:
            panel.name_(p.seconds, p.quality, str(p.number) if p.number else "baseline")
    return [panel]


def waterfall(parts: Sequence[Part], total: Ratio, width: int) -> list[Panel]:
    """Leave-one-out factors end to end on a log scale, what their overlap makes of them, and the measured whole."""
    bars: list[tuple[str, str, float, float, str, str]] = []
    at = 1.0
    for part in parts:
        if part.ratio and part.ratio > 0:
            meaning = words.adds(part.verdict, part.low, part.high)
            colour = {"helps": svg.AFTER, "costs speed": svg.WARN}.get(meaning.partition(":")[0], svg.MUTED)
            bars.append((part.label or part.technique, _times(part), at, at * part.ratio, colour, meaning))
            at *= part.ratio
    steps = len(bars)
    if total.ratio and total.ratio > 0:
        if bars:
            bars.append(("overlap of the techniques", words.times(total.ratio / at), at, total.ratio, "none", ""))
        bars.append(("all together, measured", _times(total), 1.0, total.ratio, svg.INK, ""))
    ends = [1.0, 1.06, *(end for _, _, start, stop, _, _ in bars for end in (start, stop))]
    across = spanning(ends, 0.0, svg.LOG, text=short(words.times))
    panel = Panel(across, Axis(len(bars), 0, shown=False), width, 46 * len(bars) + 36, room=16)
    for row, (name, value, start, stop, colour, meaning) in enumerate(bars):
        if row < min(steps, len(bars) - 1):
            panel.line_((stop, stop), (row + 0.86, row + 1.54), svg.MUTED, 1.0)
        look = {"fill": colour, "stroke": svg.MUTED if colour == "none" else colour}
        panel.bar_((start, stop), (row + 0.54, row + 0.86), f"{name}: {value} {meaning}".strip(), **look)
        if width < 500:
            value = value.partition(" (")[0]  # no room for the interval: the tooltip and the table have it
        middle = panel.place(1.0, row + 0.3)[1]
        panel.write_(panel.x0, middle, words.cut(name, 30 if width < 500 else 70), svg.INK)
        panel.write_(panel.x1, middle, value, svg.INK, "end")
    return [panel]


def rounds(found: Sequence[Pair], speedup: Ratio | None, noise_floor: Ratio | None, width: int) -> list[Panel]:
    """The speed-up of every pair by round: the candidate's above, the baseline against itself below."""
    kinds = (
        ("candidate", "candidate against baseline", speedup, svg.AFTER),
        ("baseline again", "baseline against itself", noise_floor, svg.BEFORE),
    )
    last, panels = max(p.round for p in found) + 1, list[Panel]()
    for plan, title, ratio, colour in kinds:
        inside = [p for p in found if p.plan == plan]
        if not inside:
            continue
        told = [] if ratio is None else [v for v in (ratio.low, ratio.ratio, ratio.high) if v is not None]
        up = spanning([*(p.ratio for p in inside), *told], 0.1, least=0.02, text=short(words.times))
        across = Axis(0.4, last + 0.6, label="round", whole=True, grid=False)
        panel = Panel(across, up, width, 208, title, top=sum(p.height for p in panels))
        if len(told) == 3:
            panel.band_((across.low, across.high), told[:1] * 2, told[2:] * 2, colour, "0.16")
        if ratio is not None and ratio.ratio is not None:
            panel.rule_(ratio.ratio, colour)
        cases = sorted({p.case for p in inside})
        for p in inside:
            shift = 0.5 * ((cases.index(p.case) + 0.5) / len(cases) - 0.5)
            said = f"round {p.round + 1}, case {p.case}: {words.times(p.ratio)}"
            panel.point_(p.round + 1 + shift, p.ratio, said, 3.2, fill=colour, stroke=svg.PAGE)
        panels.append(panel)
    return panels


def curves(
    baseline: NDArray[np.float32] | None, candidate: NDArray[np.float32] | None, titles: Sequence[str], width: int
) -> list[Panel]:
    """Samples (n, l) or (n, c, l) as curves, a panel of n ``titles`` each, before and after on top of each other."""
    drawn = [(a, c, s) for a, c, s in ((baseline, svg.BEFORE, 3.5), (candidate, svg.AFTER, 1.3)) if a is not None]
    columns = 2 if width > 500 else 1
    panels = []
    for index, title in enumerate(titles):
        lines = [(channel, c, s) for a, c, s in drawn for channel in np.atleast_2d(a[index])]
        up = spanning(np.concatenate([channel for channel, _, _ in lines]))
        across = Axis(0, max(len(lines[0][0]) - 1, 1), whole=True)
        size = (width / columns, 150)
        panel = Panel(across, up, *size, title, size[0] * (index % columns), size[1] * (index // columns), room=16)
        for channel, colour, pixels in lines:
            panel.line_(np.arange(len(channel), dtype=np.float64), channel, colour, pixels)
        panels.append(panel)
    return panels


def _times(ratio: Ratio) -> str:
    return f"{words.times(ratio.ratio)} ({words.number(ratio.low)} to {words.number(ratio.high)})"
