"""The charts: bars where the factors say, dots where the ratios say, tooltips, odd values."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from hasten.report import charts
from hasten.report.points import Pair, points
from hasten.report.result import Part, Ratio, Result
from hasten.report.svg import NARROW, WIDE, Chart, both, drawing, inline


def parts(*ratios: float | None) -> list[Part]:
    return [Part(technique=f"t{i}", label=f"T{i} $\\bad", ratio=r, low=r, high=r) for i, r in enumerate(ratios)]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_waterfall_ends_at_the_whole(width: int) -> None:
    with drawing():
        chart = charts.waterfall(parts(4.0, 0.5, None, 3.0), Ratio(ratio=9.0, low=8.0, high=10.0), width)
    spans = [(b.get_x(), b.get_x() + b.get_width()) for b in chart.figure.axes[0].patches]
    assert np.asarray(spans) == pytest.approx(np.asarray([(1, 4), (2, 4), (2, 6), (6, 9), (1, 9)]))
    assert "1.50×" in chart.tooltips["bar-3"]


@pytest.mark.parametrize("ratio", [1.0, 1.001, 0.93, 1e-3, 1e4])
def test_every_scale_has_ticks_inside_it(ratio: float) -> None:
    with drawing():
        axes = charts.waterfall(parts(ratio), Ratio(ratio=ratio, low=ratio, high=ratio), WIDE).figure.axes[0]
    low, high = axes.get_xlim()
    ticks = axes.get_xticks()
    assert len(ticks) >= 3
    assert all(low <= tick <= high for tick in ticks)
    pixels = [axes.transData.transform((tick, 0))[0] for tick in ticks]
    assert min(np.diff(pixels)) >= 44


def test_rounds_show_every_pair() -> None:
    found = [Pair("candidate", c, r, 2 + 0.01 * r) for r in range(5) for c in range(3)]
    found += [Pair("baseline again", 0, r, 1.0) for r in range(5)]
    with drawing():
        chart = charts.rounds(found, Ratio(ratio=2.02, low=2.0, high=2.04), None, WIDE)
    assert len(chart.figure.axes) == 2
    assert len(chart.tooltips) == 20
    for axes in chart.figure.axes:
        low, high = axes.get_ylim()
        heights = [float(line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]
        assert all(low < height < high for height in heights)


def test_tooltips_and_text_are_escaped_and_ids_prefixed() -> None:
    with drawing():
        chart = charts.rounds([Pair("candidate", 0, 0, 2.0)], None, None, NARROW)
        chart.tooltips["pair-0-0"] = "<b>&"
        text = str(inline("x", "wide", 'says "<a>"', chart))
    root = ElementTree.fromstring(text)
    titles = [element.text for element in root.iter("title")]
    assert titles == ["<b>&"]
    assert root.get("aria-label") == 'says "<a>"'
    assert all(element.get("id", "x-").startswith("x-") for element in root.iter())
    assert "matplotlib.org" not in text


@pytest.mark.parametrize("shape", [(3, 50), (3, 2, 50), (1, 2)])
def test_curves_survive_what_is_not_finite(shape: tuple[int, ...]) -> None:
    samples = np.zeros(shape, np.float32)
    samples[0, ..., 0] = math.nan
    text = both("c", "alt", lambda width: charts.curves(samples, None, ["a", "b", "c"][: len(samples)], width))
    assert text.count("<svg") == 2


def test_a_curve_answers_where_it_is() -> None:
    with drawing():
        figure = charts.Figure(figsize=(200 / 72, 100 / 72), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 1000), ylim=(0, 1))
        steps = np.arange(1001.0)
        chart = Chart(figure).follow_(axes, steps, steps / 1000, lambda x, y: f"<{x:.0f}: {y:.2f}>")
        root = ElementTree.fromstring(str(inline("x", "wide", "alt", chart)))
    marks = list(root.iter("circle"))
    assert len(marks) == 60
    assert [mark.findtext("title") for mark in (marks[0], marks[-1])] == ["<0: 0.00>", "<1000: 1.00>"]
    assert [(m.get("cx"), m.get("cy")) for m in (marks[0], marks[-1])] == [("0.0", "100.0"), ("200.0", "0.0")]


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_no_number_covers_a_point(example: Any, width: int) -> None:
    result = Result.model_validate(example.result())
    with drawing():
        axes = charts.speed_against_quality(result, width).figure.axes[0]
        spots = [axes.transData.transform((p.seconds, p.quality)) for p in points(result)]
        axes.figure.draw_without_rendering()
        boxes = [(t.get_text(), t.get_window_extent()) for t in axes.texts if not t.get_text().startswith("budget")]
    assert "5" in [text for text, _ in boxes]  # the chosen one
    for text, box in boxes:
        assert not [spot for spot in spots if box.contains(*spot)], text
