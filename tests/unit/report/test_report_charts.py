"""The charts: bars where the factors say, dots where the ratios say, ticks, tooltips, labels apart, odd values."""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from hasten.report import charts, words
from hasten.report.points import Pair, points
from hasten.report.result import Part, Ratio, Result
from hasten.report.svg import (
    LETTER,
    LINEAR,
    LOG,
    NARROW,
    WIDE,
    Axis,
    Kind,
    Panel,
    bent,
    both,
    plain,
    short,
    spanning,
    stairs,
)  # fmt: skip


def parts(*ratios: float | None) -> list[Part]:
    return [Part(technique=f"t{i}", label=f"T{i} $\\bad", ratio=r, low=r, high=r) for i, r in enumerate(ratios)]


def drawn(*panels: Panel) -> ElementTree.Element:
    """The panels' elements."""
    return ElementTree.fromstring("<svg>" + "".join(panel.finished() for panel in panels) + "</svg>")


def said(panel: Panel) -> dict[str, ElementTree.Element]:
    """The elements that say something, by what they say."""
    return {e.findtext("title", "").replace("\u00a0", " "): e for e in drawn(panel).iter("rect") if len(e)}


def number(element: ElementTree.Element, *names: str) -> list[float]:
    return [float(element.get(name, "nan")) for name in names]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_waterfall_ends_at_the_whole(width: int) -> None:
    [panel] = charts.waterfall(parts(4.0, 0.5, None, 3.0), Ratio(ratio=9.0, low=8.0, high=10.0), width)
    found = said(panel)
    spans = [(left, left + wide) for left, wide in (number(e, "x", "width") for e in found.values())]
    wanted = [(1, 4), (2, 4), (2, 6), (6, 9), (1, 9)]
    assert np.asarray(spans) == pytest.approx(
        np.asarray([[panel.place(v, 0)[0] for v in span] for span in wanted]), abs=0.2
    )
    assert "1.50×" in list(found)[3]


@pytest.mark.parametrize("ratio", [1.0, 1.001, 0.93, 1e-3, 1e4])
def test_every_scale_has_ticks_inside_it(ratio: float) -> None:
    [panel] = charts.waterfall(parts(ratio), Ratio(ratio=ratio, low=ratio, high=ratio), WIDE)
    assert len(panel.x_ticks) >= 3
    assert all(panel.x.low <= tick <= panel.x.high for tick in panel.x_ticks)
    assert min(np.diff([panel.place(tick, 0)[0] for tick in panel.x_ticks])) >= 36


@pytest.mark.parametrize(
    ("low", "high", "kind", "text", "wanted"),
    [
        (0, 40, LINEAR, plain, "0 5 10 15 20 25 30 35 40"),
        (0, 25_000, LINEAR, plain, "0 5,000 10,000 15,000 20,000 25,000"),
        (-3e-5, 3e-5, LINEAR, plain, "−3e-5 −2e-5 −1e-5 0 1e-5 2e-5 3e-5"),
        (0.012, 0.5, LOG, short(words.seconds), "20 ms 50 ms 100 ms 200 ms 500 ms"),
        (1e-6, 1e3, LOG, plain, "1e-6 0.0001 0.01 0.1 1 10 100 1,000"),
        (0.98, 1.03, LOG, short(words.times), "0.98× 0.99× 1× 1.01× 1.02× 1.03×"),
        (-0.02, 0.1, bent(0.02), short(words.change), "−2 % −1 % 0 +1 % +2 % +5 % +7 % +10 %"),
    ],
)
def test_ticks_are_round_and_their_labels_apart(
    low: float, high: float, kind: Kind, text: Callable[[float], str], wanted: str
) -> None:
    axis = Axis(low, high, kind, text)
    assert " ".join(axis.text(tick) for tick in axis.ticks(450, across=True)).replace("\u00a0", " ") == wanted


@pytest.mark.parametrize("kind", [LINEAR, LOG, bent(0.02)])
def test_an_axis_takes_any_finite_numbers(kind: Kind) -> None:
    values = [1.0, 1 + 1e-16, 1e-308, 1e308, 3.0, 0.1] + [0.0, -1e-9, -1e308] * (kind is not LOG)
    for a, b in itertools.product(values, values):
        axis = spanning([a, b, math.nan, math.inf], kind=kind)
        assert axis.low < axis.high
        assert all(-0.01 <= axis.at(v) <= 1.01 for v in (a, b))
        assert 1 <= len(axis.ticks(300, across=True)) <= 16


def test_rounds_show_every_pair() -> None:
    found = [Pair("candidate", c, r, 2 + 0.01 * r) for r in range(5) for c in range(3)]
    found += [Pair("baseline again", 0, r, 1.0) for r in range(5)]
    panels = charts.rounds(found, Ratio(ratio=2.02, low=2.0, high=2.04), None, WIDE)
    assert [len(said(panel)) for panel in panels] == [15, 5]
    for panel in panels:
        assert all(panel.y1 < number(e, "y")[0] < panel.y0 for e in said(panel).values())


def test_tooltips_and_text_are_escaped() -> None:
    def draw(width: int) -> list[Panel]:
        panel = Panel(Axis(0, 1), Axis(0, 1), width, 100, "<i>title</i>", key=[("red", 2.0, "<u>")])
        panel.point_(0.5, 0.5, "<b>&", fill="red")
        panel.name_(0.5, 0.5, "</text><script>")
        return [panel]

    text = both('says "<a>"', draw)
    assert not re.search(r"<(b|a|i|u|script)>", text)
    root = ElementTree.fromstring(f"<p>{text}</p>")
    assert [element.text for element in root.iter("title")] == ["<b>&"] * 2
    assert [svg.get("aria-label") for svg in root] == ['says "<a>"'] * 2
    assert {"<i>title</i>", "<u>", "</text><script>"} <= {element.text for element in root.iter("text")}


@pytest.mark.parametrize("shape", [(3, 50), (3, 2, 50), (1, 2)])
def test_curves_survive_what_is_not_finite(shape: tuple[int, ...]) -> None:
    samples = np.zeros(shape, np.float32)
    samples[0, ..., 0] = math.nan
    samples[0, ..., 1] = 3e38
    text = both("alt", lambda width: charts.curves(samples, None, ["a", "b", "c"][: len(samples)], width))
    assert text.count("<svg") == 2
    assert "nan" not in text


def test_a_long_curve_keeps_its_spikes_in_few_points() -> None:
    panel = Panel(Axis(0, 1e5), Axis(-1, 1), WIDE, 100)
    heights = np.zeros(100_000)
    heights[12_345], heights[80_000], heights[60_000] = 1, -1, math.nan
    panel.line_(np.arange(1e5), heights, "red")
    path = next(e for e in drawn(panel).iter("path") if e.get("stroke") == "red").get("d", "")
    places = re.findall(r"[ML][\d.]+,([\d.]+)", path)
    assert len(places) < 4000
    assert {f"{panel.y1:.1f}", f"{panel.y0:.1f}"} <= set(places)
    assert path.count("M") == 2  # broken where it is not finite


def test_a_curve_answers_where_it_is() -> None:
    panel = Panel(Axis(0, 1000), Axis(0, 1), 400, 200)
    steps = np.arange(1001.0)
    panel.answer_(steps, steps / 1000, lambda x, y: f"<{x:.0f}: {y:.2f}>")
    found = said(panel)
    assert len(found) == 60
    for text, place in (("<0: 0.00>", (panel.x0, panel.y0)), ("<1000: 1.00>", (panel.x1, panel.y1))):
        assert number(found[text], "x", "y") == pytest.approx([place[0] - 4, place[1] - 4], abs=0.1)


def test_stairs_keep_their_height_until_the_next() -> None:
    x, y = stairs([1, 3, 4], [5, 6, 7])
    assert (x.tolist(), y.tolist()) == ([1, 3, 3, 4, 4], [5, 5, 6, 6, 7])


def boxes(panel: Panel) -> list[tuple[str, float, float, float, float]]:
    """Text, left, right, top and bottom of every label."""
    found = []
    for element in drawn(panel).iter("text"):
        text, (x, y) = element.text or "", number(element, "x", "y")
        left = x - len(text) * LETTER * {"start": 0, "middle": 0.5, "end": 1}[element.get("text-anchor", "start")]
        found.append((text, left, left + len(text) * LETTER, y - 10, y + 2))
    return found


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_number_covers_a_point_or_another(example: Any, width: int) -> None:
    result = Result.model_validate(example.result())
    [panel] = charts.speed_against_quality(result, width)
    spots = [panel.place(p.seconds, p.quality) for p in points(result)]
    labels = boxes(panel)
    assert "5" in [label[0] for label in labels]  # the chosen one
    for text, left, right, top, bottom in labels:
        assert not [spot for spot in spots if left < spot[0] < right and top < spot[1] < bottom], text
    for (a, *one), (b, *other) in itertools.combinations(labels, 2):
        assert one[1] <= other[0] or other[1] <= one[0] or one[3] <= other[2] or other[3] <= one[2], (a, b)


def test_names_of_curves_that_end_together_are_apart() -> None:
    panel = Panel(Axis(0, 1), Axis(0, 1), WIDE, 200, room=60)
    panel.name_ends_([(1.0, height, f"s = {height}") for height in (0.0, 0.01, 0.02, 0.9, 0.91)])
    heights = sorted(number(e, "y")[0] for e in drawn(panel).iter("text") if (e.text or "").startswith("s"))
    assert min(np.diff(heights)) >= 13.9
    assert panel.y1 < heights[0] < heights[-1] <= panel.y0


def test_a_page_needs_no_library_that_draws() -> None:
    code = "import sys; from hasten.report import page, profile_page, train_page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
