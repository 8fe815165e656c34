"""The report's charts: speed against quality, what each technique added, the rounds, curves of samples.

Each function takes what it draws and a width in CSS pixels, and gives a ``Chart``.  Cost in seconds is better low;
ratios are speed-ups (baseline/candidate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Transform
from numpy.typing import NDArray

from hasten.report import words
from hasten.report.points import Pair, Point, by_loss, points
from hasten.report.result import Part, Ratio, Result
from hasten.report.svg import AFTER, BEFORE, INK, MUTED, SURFACE, WARN, Chart

PIXELS_PER_INCH = 72
MANTISSAS = (1.0, 2.0, 5.0, 3.0, 7.0, 1.5, 4.0)  # roundest first
LOSS_TICKS = (0.0, *(sign * n * 10.0**e for n in (1, 5, 2) for e in range(4, -4, -1) for sign in (1, -1)))


def speed_against_quality(result: Result, width: int) -> Chart:
    """Every candidate by seconds per image (log) and loss or drift, with the Pareto front as a staircase."""
    found, loss = points(result), by_loss(result)
    figure, axes = _axes(width, 380 if width > 500 else 330, left=58, right=26)
    chart = Chart(figure)
    axes.set_xscale("log")
    if loss:
        axes.set_yscale("symlog", linthresh=0.05)
    axes.margins(x=0.08, y=0.12)
    steps = [p for p in sorted(found, key=lambda p: p.seconds) if p.on_front]
    axes.plot([p.seconds for p in steps], [p.quality for p in steps], color=AFTER, drawstyle="steps-post", lw=1.5)
    for p in found:
        marker, pixels, fill = ("o", 8.0, AFTER) if p.on_front else ("o", 7.0, SURFACE)
        edge = AFTER if p.on_front else MUTED
        if p.number == 0:
            marker, pixels, fill, edge = "s", 9.0, BEFORE, BEFORE
        if p.chosen:
            marker, pixels, fill, edge = "D", 11.0, AFTER, INK
        gid = f"point-{p.number}"
        axes.plot(p.seconds, p.quality, marker, ms=pixels, mfc=fill, mec=edge, mew=1.5, gid=gid, zorder=3 + p.chosen)
        quality = f"loss {words.change(p.quality)}" if loss else f"drift {words.decibel(p.quality)}"
        number = f"{p.number}. " if p.number else ""
        chart.tooltips[gid] = f"{number}{p.name}: {words.seconds(p.seconds)} per image, {quality}"
    if loss and result.quality is not None and result.quality.budget is not None:
        axes.axhline(result.quality.budget, color=WARN, lw=1.2, ls=(0, (4, 3)))
        text = f"budget {words.share(result.quality.budget)}"
        _note(axes, 1.0, result.quality.budget, text, axes.get_yaxis_transform(), (-2, 4), ha="right", color=WARN)
    low, high = axes.get_xlim()
    _log_ticks(axes, low, high, apart=54, text=words.seconds)
    if loss:
        bottom, top = axes.get_ylim()
        inside = [tick for tick in LOSS_TICKS if bottom <= tick <= top]
        axes.yaxis.set_major_locator(FixedLocator(_apart(inside, axes.get_yaxis_transform(), 1, 24)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: words.change(v).replace(".0", "")))
        axes.set_ylim(bottom, top)
    axes.set_xlabel("time per image (log scale)")
    axes.set_title("loss against the baseline" if loss else "drift in dB")
    _number_(axes, found)
    return chart


def _number_(axes: Axes, found: Sequence[Point]) -> None:
    """Write the row numbers beside the points that matter, where there is room: over no point, no other number."""
    # the middles of what is there and half its size
    taken = [(*axes.transData.transform((p.seconds, p.quality)), 4.0, 3.0) for p in found]
    named = sorted(
        (p for p in found if p.on_front or p.chosen or p.number == 0), key=lambda p: (not p.chosen, p.number)
    )
    for p in named:
        x, y = axes.transData.transform((p.seconds, p.quality))
        text = str(p.number) if p.number else "baseline"
        half = 3.6 * len(text)
        left, right = (-9, "right"), (8, "left")
        for (across, side), up in product((left, right) if p.number == 0 else (right, left), (6, -14)):
            middle, height = x + across + (half if side == "left" else -half), y + up + 5
            if all(abs(middle - a) > half + w or abs(height - b) > 5 + h for a, b, w, h in taken):
                taken.append((middle, height, half, 6.0))
                _note(axes, p.seconds, p.quality, text, axes.transData, (across, up), ha=side, color=INK)
                break


def waterfall(parts: Sequence[Part], total: Ratio, width: int) -> Chart:
    """Leave-one-out factors end to end on a log scale, what their overlap makes of them, and the measured whole."""
    bars: list[tuple[str, str, float, float, str, str]] = []
    at = 1.0
    for part in parts:
        if not part.ratio or part.ratio < 0:
            continue
        value = f"{words.times(part.ratio)} ({_span(part)})"
        meaning = words.adds(part.verdict, part.low, part.high)
        colour = {"helps": AFTER, "costs speed": WARN}.get(meaning.partition(":")[0], MUTED)
        bars.append((part.label or part.technique, value, at, at * part.ratio, colour, meaning))
        at *= part.ratio
    if total.ratio:
        if bars:
            overlap = total.ratio / at
            bars.append(("overlap of the techniques", words.times(overlap), at, total.ratio, "none", ""))
        value = f"{words.times(total.ratio)} ({_span(total)})"
        bars.append(("all together, measured", value, 1.0, total.ratio, INK, ""))
    row = 46
    figure, axes = _axes(width, row * len(bars) + 50, left=14, right=14, top=4)
    chart = Chart(figure)
    axes.set_xscale("log")
    ends = [1.0, *(b for bar in bars for b in bar[2:4])]
    low, high = min(ends) / 1.06, max(ends) * 1.06
    axes.set_xlim(low, high)
    axes.set_ylim(len(bars), 0)
    axes.grid(visible=False, axis="y")
    axes.yaxis.set_major_locator(NullLocator())
    _log_ticks(axes, low, high, apart=44, text=words.times)
    for index, (name, value, start, end, colour, meaning) in enumerate(bars):
        gid = f"bar-{index}"
        left, right = min(start, end), max(start, end)
        right = max(right, left * (high / low) ** 0.004)  # a factor of 1 still shows as a hairline
        outline: dict[str, Any] = {"edgecolor": MUTED, "hatch": "////"} if colour == "none" else {"edgecolor": colour}
        bar = axes.barh(index + 0.68, right - left, left=left, height=0.34, color=colour, lw=1, **outline)
        bar.patches[0].set_gid(gid)
        if index + 1 < len(bars) and index + 2 < len(bars) + (not total.ratio):
            axes.plot([end, end], [index + 0.85, index + 1.51], color=MUTED, lw=1)
        chart.tooltips[gid] = f"{name}: {value} {meaning}".strip()
        if width < 500:
            value = value.partition(" (")[0]  # no room for the interval: the tooltip and the table have it
        name = words.cut(name, 34 if width < 500 else 70)
        axes.text(0.0, index + 0.3, name, transform=axes.get_yaxis_transform(), va="center")
        axes.text(1.0, index + 0.3, value, transform=axes.get_yaxis_transform(), va="center", ha="right")
    return chart


def rounds(found: Sequence[Pair], speedup: Ratio | None, noise_floor: Ratio | None, width: int) -> Chart:
    """The speed-up of every pair by round: the candidate's above, the baseline against itself below."""
    panels = [
        (title, [p for p in found if p.plan == plan], ratio, colour)
        for plan, title, ratio, colour in (
            ("candidate", "candidate against baseline", speedup, AFTER),
            ("baseline again", "baseline against itself", noise_floor, BEFORE),
        )
    ]
    panels = [panel for panel in panels if panel[1]]
    each, last = 190, max(p.round for p in found) + 1
    figure = Figure(figsize=(width / PIXELS_PER_INCH, each * len(panels) / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    chart = Chart(figure)
    for row, (title, inside, ratio, colour) in enumerate(panels):
        bottom = each * (len(panels) - 1 - row) + 40
        axes = figure.add_axes(_box(figure, 52, bottom, width - 52 - 8, each - 40 - 28))
        axes.set_title(title)
        if ratio is not None and ratio.low is not None and ratio.high is not None:
            axes.axhspan(ratio.low, ratio.high, color=colour, alpha=0.18, lw=0)
        if ratio is not None and ratio.ratio is not None:
            axes.axhline(ratio.ratio, color=colour, lw=1.2)
        cases = sorted({p.case for p in inside})
        for index, p in enumerate(inside):
            shift = 0.5 * ((cases.index(p.case) + 0.5) / len(cases) - 0.5)
            gid = f"pair-{row}-{index}"
            look: dict[str, Any] = {"ms": 5.5, "mfc": colour, "mec": SURFACE, "mew": 0.8, "clip_on": False}
            axes.plot(p.round + 1 + shift, p.ratio, "o", gid=gid, **look)
            chart.tooltips[gid] = f"round {p.round + 1}, case {p.case}: {words.times(p.ratio)}"
        values = [p.ratio for p in inside] + [v for v in (ratio and ratio.low, ratio and ratio.high) if v]
        middle = (min(values) + max(values)) / 2
        half = max((max(values) - min(values)) / 2 * 1.2, 0.02 * middle)
        axes.set_ylim(middle - half, middle + half)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}×"))
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.set_xlim(0.4, last + 0.6)
        step = max(1, math.ceil(last / (20 if width > 500 else 8)))
        axes.xaxis.set_major_locator(FixedLocator(range(1, last + 1, step)))
        axes.grid(visible=False, axis="x")
        if row == len(panels) - 1:
            axes.set_xlabel("round")
    return chart


def curves(
    baseline: NDArray[np.float32] | None, candidate: NDArray[np.float32] | None, titles: Sequence[str], width: int
) -> Chart:
    """Samples (n, l) or (n, c, l) as curves, a panel of n ``titles`` each, before and after on top of each other."""
    drawn = [(a, c, s) for a, c, s in ((baseline, BEFORE, 3.0), (candidate, AFTER, 1.2)) if a is not None]
    count = len(titles)
    columns = 2 if width > 500 else 1
    rows, each, across = math.ceil(count / columns), 150, width // columns
    figure = Figure(figsize=(width / PIXELS_PER_INCH, each * rows / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    for index in range(count):
        left, bottom = across * (index % columns) + 44, each * (rows - 1 - index // columns) + 24
        axes = figure.add_axes(_box(figure, left, bottom, across - 52, each - 24 - 28))
        axes.set_title(titles[index])
        for samples, colour, pixels in drawn:
            for channel in np.atleast_2d(samples[index]):
                axes.plot(np.where(np.isfinite(channel), channel, np.nan), color=colour, lw=pixels)
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return Chart(figure)


def _axes(
    width: int, height: int, left: int = 52, right: int = 10, top: int = 28, bottom: int = 44
) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    return figure, figure.add_axes(_box(figure, left, bottom, width - left - right, height - top - bottom))


def _box(figure: Figure, left: float, bottom: float, width: float, height: float) -> tuple[float, float, float, float]:
    """Pixels from the lower left as the fractions that matplotlib takes."""
    across, up = figure.get_size_inches() * PIXELS_PER_INCH
    return (left / across, bottom / up, width / across, height / up)


def _note(
    axes: Axes, x: float, y: float, text: str, coordinates: Any, shift: tuple[float, float], ha: str, color: str
) -> None:
    axes.annotate(
        text, (x, y), xycoords=coordinates, xytext=shift, textcoords="offset points", ha=ha, color=color, zorder=5
    )


def _log_ticks(axes: Axes, low: float, high: float, apart: float, text: Callable[[float], str]) -> None:
    """Round ticks on a log axis, at least ``apart`` pixels from each other."""
    axes.set_xlim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    transform = axes.get_xaxis_transform()
    ticks = _apart([m * 10.0**d for m in MANTISSAS for d in decades if low <= m * 10.0**d <= high], transform, 0, apart)
    if len(ticks) < 3:  # a narrow range: even steps
        even = [float(t) for t in MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= t <= high]
        ticks = _apart(even, transform, 0, apart)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: _plain(text(v))))


def _apart(wanted: Sequence[float], transform: Transform, axis: int, apart: float) -> list[float]:
    """Those of ``wanted``, in its order, that lie ``apart`` pixels or more from all taken before."""
    taken: dict[float, float] = {}
    for tick in wanted:
        at = float(transform.transform((tick, 0.0) if axis == 0 else (0.0, tick))[axis])
        if all(abs(at - other) >= apart for other in taken.values()):
            taken[tick] = at
    return sorted(taken)


def _plain(text: str) -> str:
    """A tick's number without the zeros that only say how precise a measurement is: 20.0 ms is 20 ms."""
    digits = text[: next((i for i, c in enumerate(text) if c not in "0123456789.,"), len(text))]
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits) + text[len(digits) :]


def _span(ratio: Ratio) -> str:
    return f"{words.number(ratio.low)} to {words.number(ratio.high)}"
