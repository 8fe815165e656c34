"""Charts drawn as SVG: round ticks, lines, bands, bars, points, and labels that keep out of each other's way.

One unit is one CSS pixel.  Colours are the style sheet's variables, so a chart follows light and dark mode; text is SVG
text.  What a mark says stands in its ``<title>``, which the page's script answers with.  The same numbers always give
the same bytes, and any finite ones a drawing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

NAMES = ("ink", "muted", "line", "before", "after", "bg", "warn")
INK, MUTED, GRID, BEFORE, AFTER, PAGE, WARN = (f"var(--{name})" for name in NAMES)
WIDE, NARROW = 900, 328
LETTER = 7.7  # pixels of a letter of a wide font, at the style sheet's size
ROW = 18  # pixels from one line of text to the next
MOST_PLACES = 60
LARGEST = 1e250
MANTISSAS = (1.0, 5.0, 2.0, 3.0, 7.0, 1.5, 4.0)  # roundest first
SIDES = ((1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1), (0, 1), (1, 0), (-1, 0))  # of a point, for its name

Numbers = Sequence[float] | NDArray[np.floating[Any]]
Text = Callable[[float], str]
Kind = tuple[Callable[[float], float], Callable[[float], float]]  # an axis's warp: to what is drawn evenly, and back
LINEAR: Kind = (float, float)
LOG: Kind = (lambda value: math.log10(max(value, 1 / LARGEST)), lambda drawn: math.pow(10, drawn))


def bent(within: float) -> Kind:
    """Even up to about ``within`` of either sign, logarithmic beyond."""
    return (lambda value: math.asinh(value / within), lambda drawn: within * math.sinh(drawn))


def plain(value: float) -> str:
    """A tick's number: 1,000, 0.05, −3, 1e-5."""
    return ("\u2212" if value < 0 else "") + f"{abs(value):,.10g}".replace("e-0", "e-")


def short(text: Text) -> Text:
    """``text`` without the zeros that only say how precise a measurement is: 20.0 ms is 20 ms on an axis."""
    return lambda value: re.sub(r"(\.\d*[1-9])0+(?!\d)|\.0+(?!\d)", r"\1", text(value)) if value else "0"


@dataclass(frozen=True)
class Axis:
    """What lies at its two ends, and what it says; a ``whole`` one has no ticks between integers."""

    low: float
    high: float
    kind: Kind = LINEAR
    text: Text = plain
    label: str = ""
    whole: bool = False
    grid: bool = True
    shown: bool = True

    def at(self, value: float) -> float:
        """0 at the lower end, 1 at the upper."""
        low, high, here = (self.kind[0](min(max(float(v), -LARGEST), LARGEST)) for v in (self.low, self.high, value))
        return (here - low) / (high - low)

    def ticks(self, pixels: float, across: bool) -> list[float]:
        """Round numbers whose labels fit side by side, or above each other, on so many pixels."""
        if self.kind is not LINEAR and len(found := self._apart(self._round(), pixels, across)) >= 3:
            return found
        return next(even for even in self._even() if len(self._apart(even, pixels, across)) == len(even))

    def _even(self) -> Iterator[list[float]]:
        """Multiples of ever larger round steps, 16 or fewer."""
        decade = math.floor(math.log10(self.high - self.low)) - 1
        for step in (mantissa * 10.0**e for e in range(decade, decade + 310) for mantissa in (1, 2, 5)):
            if step > (self.high - self.low) / 16 and (step >= 1 or not self.whole):
                yield [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def _round(self) -> list[float]:
        """Numbers of one digit and a few more, roundest first, inside a warped axis."""
        top = math.ceil(math.log10(max(abs(self.low), abs(self.high))))
        bottom = math.floor(math.log10(self.low)) if self.kind is LOG else top - 5
        few_first = sorted(range(bottom, top + 1), key=lambda e: e % 2)
        found = [sign * m * 10.0**e for m in MANTISSAS for e in few_first for sign in (1, -1)]
        return [v for v in (0.0, *found) if self.low <= v <= self.high]

    def _apart(self, wanted: Sequence[float], pixels: float, across: bool) -> list[float]:
        """Those of ``wanted`` whose labels keep clear of, and differ from, those of all before them."""
        taken: dict[str, tuple[float, float, float]] = {}
        for value in wanted:
            text, place = self.text(value), self.at(value) * pixels
            room = max(len(text) * LETTER / 2 + 7, 18.0) if across else 13.0
            if text not in taken and all(abs(place - p) >= room + r for _, p, r in taken.values()):
                taken[text] = (value, place, room)
        return sorted(value for value, _, _ in taken.values())


def spanning(values: Iterable[float], margin: float = 0.05, kind: Kind = LINEAR, least: float = 1e-6,
             zero: bool = False, **rest: Any) -> Axis:  # fmt: skip
    """An axis for all finite ``values``, with a ``margin`` (share of it) at either end; ``zero`` makes it begin at 0,
    and it spans no less than ``least`` of its middle to either side."""
    known = np.clip([float(v) for v in values if math.isfinite(v)] or [0.0], -LARGEST, LARGEST)
    ends = kind[0](float(known.min())), kind[0](float(known.max()))
    middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    half = max(half * (1 + 2 * margin), least * abs(middle)) if half else abs(middle) * max(least, 0.05) or 1.0
    low, high = kind[1](middle - half), kind[1](middle + half)
    return Axis(0.0, max(high, 0.0) or 1.0, kind, **rest) if zero else Axis(low, high, kind, **rest)


def element(tag: str, said: str = "", inside: str = "", **attributes: Any) -> Markup:
    """An element with a tooltip; all of it but ``inside`` that is Markup already is escaped."""
    told = Markup("<title>{}</title>").format(said) if said else ""
    pairs = [(name.replace("_", "-"), v if isinstance(v, str) else f"{v:.1f}") for name, v in attributes.items() if v]
    written = Markup("").join(Markup(' {}="{}"').format(name, value) for name, value in pairs)
    return Markup("<{0}{1}>{2}{3}</{0}>").format(tag, written, told, inside)


@dataclass
class Panel:
    """A pair of axes in the rectangle ``width`` × ``height`` at (``left``, ``top``), and what is drawn on them.

    ``key`` says what colours mean: (colour, pixels high, text) each; ``room`` is kept free right of the axes.
    """

    x: Axis
    y: Axis
    width: float
    height: float
    title: str = ""
    left: float = 0.0
    top: float = 0.0
    room: float = 10.0
    key: Sequence[tuple[str, float, str]] = ()
    drawn: list[Markup] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)  # middle and half the size, of each

    def __post_init__(self) -> None:
        self.one_row = LETTER * (1.1 * len(self.title) + sum(len(t) + 4 for _, _, t in self.key)) < self.width - 60
        self.y0 = self.top + self.height - ROW - 12 - (ROW if self.x.label else 0)
        self.y1 = self.top + 8 + (ROW if self.title else 0) + (ROW if self.key and not self.one_row else 0)
        self.y_ticks = self.y.ticks(self.y0 - self.y1, across=False) if self.y.shown else []
        letters = max((len(self.y.text(tick)) for tick in self.y_ticks), default=0)
        self.x0 = self.left + max(57.0 if self.y.shown else 14.0, letters * LETTER + 10)
        self.x1 = self.left + self.width - self.room
        self.x_ticks = self.x.ticks(self.x1 - self.x0, across=True)
        ends = [self.place(tick, self.y.low)[0] + len(self.x.text(tick)) * LETTER / 2 for tick in self.x_ticks[-1:]]
        self.x1 -= max([0.0, *(end - self.left - self.width for end in ends)])

    def place(self, x: float, y: float) -> tuple[float, float]:
        """A pair of numbers in pixels from the upper left of the chart."""
        return self.x0 + self.x.at(x) * (self.x1 - self.x0), self.y0 + self.y.at(y) * (self.y1 - self.y0)

    def line_(self, x: Numbers, y: Numbers, colour: str, width: float = 1.5, avoid: bool = False, **look: str) -> None:
        """A curve, broken where it is not finite; with ``avoid`` names keep off its level and upright segments."""
        path, last = "", None
        for n in _kept(y, round(self.width)):
            here = self.place(x[n], y[n]) if math.isfinite(x[n]) and math.isfinite(y[n]) else None
            if here:
                path += f"{'L' if last else 'M'}{here[0]:.1f},{here[1]:.1f}"
            if here and last and avoid:
                (a, b), (c, d) = here, last
                self.taken.append(((a + c) / 2, (b + d) / 2, abs(a - c) / 2, abs(b - d) / 2))
            last = here
        self.drawn.append(element("path", d=path, fill="none", stroke=colour, stroke_width=width, **look))

    def band_(self, x: Numbers, low: Numbers, high: Numbers, colour: str, opacity: str) -> None:
        """What lies between two curves."""
        there, back = ([self.place(*pair) for pair in zip(x, y, strict=True)] for y in (high, low))
        path = "L".join(f"{a:.1f},{b:.1f}" for a, b in [*there, *reversed(back)])
        self.drawn.append(element("path", d=f"M{path}Z", fill=colour, fill_opacity=opacity))

    def rule_(self, y: float, colour: str, text: str = "", dashes: str = "") -> None:
        """A level line with its name above its right end."""
        half = LETTER * len(text) / 2
        self.line_((self.x.low, self.x.high), (y, y), colour, avoid=True, stroke_dasharray=dashes)
        height = self.place(0.0, y)[1] - 9
        self.write_(self.x1, height, text, colour, "end")
        self.taken.append((self.x1 - half, height, half, 6.0))

    def point_(self, x: float, y: float, said: str, radius: float = 4.0, shape: str = "circle", **look: str) -> None:
        """A mark with a tooltip, ``look`` its fill and stroke; the ``shape`` is circle, square or diamond."""
        cx, cy = self.place(x, y)
        turn = f"rotate(45 {cx:.1f} {cy:.1f})" if shape == "diamond" else ""
        look |= {"rx": f"{radius}" if shape == "circle" else "", "transform": turn}
        self._box_(cx - radius, cy - radius, 2 * radius, 2 * radius, said, **look)
        self.taken.append((cx, cy, radius, radius))

    def bar_(self, x: tuple[float, float], y: tuple[float, float], said: str, **look: str) -> None:
        """A rectangle between two pairs of numbers with a tooltip, at least a hairline."""
        (a, c), (b, d) = self.place(x[0], y[0]), self.place(x[1], y[1])
        self._box_(min(a, b), min(c, d), max(abs(b - a), 1.5), max(abs(d - c), 1.0), said, **look)

    def answer_(self, x: Numbers, y: Numbers, said: Callable[[float, float], str]) -> None:
        """Let a curve say ``said(x, y)``, at a few of its points."""
        for n in np.linspace(0, len(x) - 1, min(len(x), MOST_PLACES)).round().astype(int).tolist():
            cx, cy = self.place(x[n], y[n])
            self._box_(cx - 4, cy - 4, 8.0, 8.0, said(x[n], y[n]), fill="transparent")

    def _box_(self, x: float, y: float, width: float, height: float, said: str = "", **look: str) -> None:
        look |= {"class": "mark" if said else ""}
        self.drawn.append(element("rect", said, x=f"{x:.1f}", y=f"{y:.1f}", width=width, height=height, **look))

    def write_(self, x: float, y: float, text: str, colour: str = MUTED, anchor: str = "start", kind: str = "") -> None:
        """Text whose middle is at ``y``, in pixels."""
        if text:
            look = {"text_anchor": anchor, "fill": colour, "class": kind}
            self.drawn.append(element("text", "", text, x=f"{x:.1f}", y=y + 4.5, **look))

    def name_(self, x: float, y: float, text: str) -> None:
        """Write a point's name beside it, where there is room: over no point, line or other name."""
        (cx, cy), half = self.place(x, y), LETTER * len(text) / 2
        for far, (across, up) in product((0, 7), SIDES):
            middle, height = cx + across * (half + 7 + far), cy + up * (12 + far)
            inside = self.x0 <= middle - half and middle + half <= self.x1 and self.y1 <= height <= self.y0 - 6
            if inside and all(abs(middle - a) > half + w + 1 or abs(height - b) > 7 + h for a, b, w, h in self.taken):
                self.taken.append((middle, height, half, 6.0))
                self.write_(middle, height, text, INK, "middle")
                break

    def name_ends_(self, ends: Sequence[tuple[float, float, str]]) -> None:
        """Write the names of curves right of where they end, apart from each other."""
        placed = sorted((self.place(x, y)[1], self.place(x, y)[0], text) for x, y, text in ends)
        height = -math.inf
        for after, (wanted, across, text) in zip(reversed(range(len(placed))), placed, strict=True):
            height = max(min(wanted, self.y0 - 6 - 14 * after), height + 14)
            self.write_(across + 6, height, text, INK)

    def finished(self) -> Markup:
        """All of it: the grid below, what was drawn, the axis and its numbers."""
        across = [(self.place(tick, self.y.low)[0], self.x.text(tick)) for tick in self.x_ticks]
        up = [(self.place(self.x.low, tick)[1], self.y.text(tick)) for tick in self.y_ticks]
        grid = [f"M{x:.1f},{self.y0:.1f}V{self.y1:.1f}" for x, _ in across if self.x.grid]
        grid += [f"M{self.x0:.1f},{y:.1f}H{self.x1:.1f}" for y, _ in up]
        self.drawn.insert(0, element("path", d="".join(grid), stroke=GRID))
        self.drawn.append(element("path", d=f"M{self.x0:.1f},{self.y0:.1f}H{self.x1:.1f}", stroke=MUTED))
        for x, text in across:
            self.write_(x, self.y0 + 15, text, anchor="middle")
        for y, text in up:
            self.write_(self.x0 - 8, y, text, anchor="end")
        self.write_(self.x0, self.top + 10, self.title, INK, kind="title")
        half = LETTER * len(self.x.label) / 2 - 10
        middle = min(max((self.x0 + self.x1) / 2, self.left + half), self.left + self.width - half)
        self.write_(middle, self.y0 + 15 + ROW, self.x.label, anchor="middle")
        widths = [LETTER * len(text) + 34 for _, _, text in self.key]
        at, height = (self.x1 - sum(widths) + 12, self.top + 10) if self.one_row else (self.x0, self.top + 10 + ROW)
        for (colour, high, text), width in zip(self.key, widths, strict=True):
            self._box_(at, height - high / 2, 14.0 if high < 4 else high, high, fill=colour, rx=f"{high / 2}")
            self.write_(at + 19, height, text)
            at += width
        return Markup("\n").join(self.drawn)


def stairs(x: Numbers, y: Numbers) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The corners of steps that keep ``y`` until the next ``x``."""
    return np.repeat(np.asarray(x, np.float64), 2)[1:], np.repeat(np.asarray(y, np.float64), 2)[:-1]


def _kept(y: Numbers, most: int) -> Sequence[int]:
    """Which numbers of a long curve are drawn: the first, last, lowest and highest of ``most`` stretches."""
    if len(y) <= 4 * most:
        return range(len(y))
    values, stretches = np.asarray(y), np.array_split(np.arange(len(y)), most)
    return sorted({int(n) for s in stretches for n in (s[0], s[-1], s[values[s].argmin()], s[values[s].argmax()])})


def both(alt: str, draw: Callable[[int], Sequence[Panel]]) -> Markup:
    """The chart drawn for wide and for narrow screens; the style sheet shows one of the two.

    ``alt`` says what the chart shows; ``draw(width in CSS pixels)`` gives its panels.
    """
    drawn = Markup("")
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        panels = draw(width)
        box = f"0 0 {width} {max((p.top + p.height for p in panels), default=0):g}"
        look = {"class": f"chart {kind}", "viewBox": box, "role": "img", "aria-label": alt}
        drawn += element("svg", "", Markup("\n").join(panel.finished() for panel in panels), **look) + "\n"
    return drawn
