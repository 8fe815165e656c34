"""A matplotlib figure as SVG inside a page: colours of the page's theme, text as text, ids of its own, tooltips.

Figures are drawn in sentinel colours (``INK`` and so on); here each becomes a CSS variable, so that a chart follows
light and dark mode.  One unit is one CSS pixel.  The same figure always gives the same bytes.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

INK, MUTED, LINE, BEFORE, AFTER, SURFACE, WARN = (f"#0{n}0{n}0{n}" for n in range(1, 8))
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    BEFORE: "before",
    AFTER: "after",
    SURFACE: "bg",
    WARN: "warn",
}
WIDE, NARROW = 900, 328
FONT_PIXELS = 12.5
MOST_PLACES = 60


@dataclass
class Chart:
    """A figure, the tooltips of its artists by their gid, and those of places (axes, x, y) that no artist marks."""

    figure: Figure
    tooltips: dict[str, str] = field(default_factory=dict)
    places: list[tuple[Axes, float, float, str]] = field(default_factory=list)

    def follow_(self, axes: Axes, x: ArrayLike, y: ArrayLike, text: Callable[[float, float], str]) -> Chart:
        """Let a curve say ``text(x, y)``, at a few of its points."""
        steps, heights = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
        for n in np.linspace(0, len(steps) - 1, min(len(steps), MOST_PLACES)).round().astype(int):
            self.places.append((axes, float(steps[n]), float(heights[n]), text(float(steps[n]), float(heights[n]))))
        return self


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib's own defaults, whatever this machine's matplotlibrc says, and the look of the report."""
    look = {
        "svg.fonttype": "none",
        "svg.hashsalt": "hasten",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "font.size": FONT_PIXELS,
        "text.color": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": MUTED,
        "axes.facecolor": "none",
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "axes.titlelocation": "left",
        "axes.titlesize": FONT_PIXELS,
        "axes.titleweight": "bold",
        "axes.titlecolor": INK,
        "figure.facecolor": "none",
        "grid.color": LINE,
        "grid.linewidth": 1.0,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.major.size": 0.0,
        "ytick.major.size": 0.0,
        "xtick.major.pad": 9.0,
        "xtick.minor.size": 0.0,
        "ytick.minor.size": 0.0,
        "hatch.color": MUTED,
    }
    with style.context(["default", look]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has the fonts, not matplotlib
        yield


def both(name: str, alt: str, draw: Callable[[int], Chart]) -> Markup:
    """The chart drawn for wide and for narrow screens; the style sheet shows one of the two.

    ``name`` begins every id; ``alt`` says what the chart shows; ``draw(width in CSS pixels)`` draws it.
    """
    widths = {"wide": WIDE, "narrow": NARROW}
    with drawing():
        return Markup("").join(inline(f"{name}-{kind}", kind, alt, draw(width)) for kind, width in widths.items())


def inline(prefix: str, kind: str, alt: str, chart: Chart) -> Markup:
    """One ``<svg class="chart KIND">``."""
    text = StringIO()
    chart.figure.savefig(text, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(text.getvalue())  # noqa: S314 - matplotlib wrote it a line above
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _adapt_(element, prefix, chart.tooltips)
    _, _, width, height = root.get("viewBox", "0 0 0 0").split()
    for axes, x, y, text_there in chart.places:
        across, up = axes.transData.transform((x, y))
        at = {"cx": f"{across:.1f}", "cy": f"{float(height) - up:.1f}", "r": "4", "class": "mark"}
        ElementTree.SubElement(ElementTree.SubElement(root, "circle", at), "title").text = text_there
    root.attrib.clear()
    root.attrib |= {"class": f"chart {kind}", "viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": alt}
    root.tail = "\n"
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - escaped by ElementTree


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _adapt_(element: ElementTree.Element, prefix: str, tooltips: Mapping[str, str]) -> None:
    """Drop namespaces (HTML knows svg), give ids ``prefix``, colours by name and the tooltip."""
    element.tag = _local(element.tag)
    attributes = {_local(key): value for key, value in element.attrib.items()}
    gid = attributes.get("id")
    if gid is not None:
        attributes["id"] = f"{prefix}-{gid}"
    for key, value in attributes.items():
        if key == "href":
            attributes[key] = f"#{prefix}-{value.removeprefix('#')}"
        elif key == "clip-path":
            attributes[key] = value.replace("url(#", f"url(#{prefix}-")
        elif key == "style":
            attributes[key] = _themed(value).replace("url(#", f"url(#{prefix}-")
    element.attrib.clear()
    element.attrib |= attributes
    if gid is not None and gid in tooltips:
        title = ElementTree.Element("title")
        title.text = tooltips[gid]
        element.insert(0, title)


def _themed(css: str) -> str:
    css = re.sub(r"font-family: [^;]*;?\s*", "", css)
    return re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], css)
