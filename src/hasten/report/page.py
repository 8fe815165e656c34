"""result.json and samples.npz into report.html: one file that loads nothing and tells the whole run.

The page is whole without its one script, page.js, which sorts tables, enlarges pictures and answers to a finger; the
content security policy forbids any other by its hash.  Every text from the result is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hasten.files import write_text
from hasten.report import charts, grids, pictures, summary, words
from hasten.report.points import Point, by_loss, pairs, points, ranked
from hasten.report.result import Observation, Profile, Ratio, Result, Row
from hasten.report.result import read as read_result
from hasten.report.svg import both

MOST_ROWS = 2000
PROFILE_ROWS = 10
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def write(folder: Path) -> Path:
    """Write ``folder/report.html`` from ``folder/result.json`` and, where there is one, ``folder/samples.npz``.

    The same inputs give the same bytes; an older report stays until the new one is whole.  Raises BadInput when one of
    the two can't be read.
    """
    result = read_result(folder / "result.json")
    samples = grids.read(folder / "samples.npz")
    path = folder / "report.html"
    write_text(path, render(result, samples))
    return path


def render(result: Result, samples: grids.Samples) -> str:
    """The page."""
    environment = templates()
    plotted = points(result)
    template = environment.get_template("page.html.j2")
    return template.render(
        result=result,
        headline=summary.headline(result),
        speed=summary.speed(result.speedup),
        quality=summary.quality(result.quality, judged=result.data is not None),
        quality_rows=summary.quality_rows(result.quality),
        memory=summary.memory(result.baseline, result.candidate),
        disk=summary.disk(result.baseline, result.candidate),
        meaning=words.adds,
        pictures=pictures.section(result, samples),
        candidates=ranked(result),
        by_loss=by_loss(result),
        front_chart=front_chart(result, plotted),
        on_front={p.number for p in plotted if p.on_front},
        drawn={p.number for p in plotted},
        chosen={p.number for p in plotted if p.chosen},
        waterfall_chart=waterfall_chart(result),
        profiles=profiles(result),
        rounds_chart=rounds_chart(result),
        observations=(result.observations or [])[:MOST_ROWS],
        per_image=per_image,
        parameters_of=parameters_of,
        warnings=warnings(result, samples),
    )


def templates() -> Environment:
    """The page templates, with the words of the report as filters."""
    # nothing but package data is a template, and autoescape holds for every name in it
    found = Environment(
        loader=PackageLoader("hasten.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for word in (words.number, words.whole, words.seconds, words.size, words.parameters, words.share,
                 words.change, words.times, words.near_one, words.decibel, words.label):  # fmt: skip
        found.filters[word.__name__] = word
    script = packaged("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    found.globals |= {"style": packaged("style.css"), "script": script, "script_hash": f"sha256-{digest}"}
    return found


def packaged(name: str) -> Markup:
    """A file of this package that goes into every page as it is."""
    return Markup(resources.files("hasten.report").joinpath(name).read_text(encoding="utf-8"))  # noqa: S704 - ours


def front_chart(result: Result, plotted: list[Point]) -> Markup | None:
    """The chart of speed against quality; None when nothing can be drawn."""
    if not plotted:
        return None
    best = "; ".join(f"{p.name} at {words.seconds(p.seconds)}" for p in plotted if p.on_front)
    alt = f"{len(plotted)} plans by seconds per image and quality. On the Pareto front: {best}."
    return both(alt, lambda width: charts.speed_against_quality(result, width))


def waterfall_chart(result: Result) -> Markup | None:
    """The chart of what each technique added."""
    parts = result.attribution or []
    if not any(part.ratio for part in parts):
        return None
    listed = ", ".join(f"{part.label or part.technique} {words.times(part.ratio)}" for part in parts)
    total = result.speedup or Ratio()
    alt = f"What each technique adds: {listed}; all together {words.times(total.ratio)}."
    return both(alt, lambda width: charts.waterfall(parts, total, width))


def rounds_chart(result: Result) -> Markup | None:
    """The strip plot of the rounds."""
    found = [p for p in pairs(result.observations or []) if p.plan in ("candidate", "baseline again")]
    if not found:
        return None
    floor = result.speedup.noise_floor if result.speedup else None
    alt = f"Speed-ups of {len(found)} pairs of runs by round; the numbers are in the table below."
    return both(alt, lambda width: charts.rounds(found, result.speedup, floor, width))


def profiles(result: Result) -> list[dict[str, Any]]:
    """Before and after: ``title``, ``seconds`` of an image, the ``unit`` of both and its ``scale`` in seconds, and rows
    with their bars, in percent of the longest.

    result.json has the seconds of one evaluation of a batch; here they are scaled to those of an image.
    """
    if result.profile is None:
        return []
    sides: list[tuple[str, Profile | None]] = [
        ("Before", result.profile.baseline),
        ("After", result.profile.candidate),
    ]
    found = [(title, side) for title, side in sides if side is not None and any(row.seconds > 0 for row in side.rows)]
    least = min((side.seconds_per_image for _, side in found if side.seconds_per_image), default=1.0)
    scale, unit = next((u for u in UNITS if least >= u[0]), UNITS[-1])
    return [
        {
            "title": title,
            "seconds": side.seconds_per_image,
            "unit": unit,
            "scale": scale,
            "rows": _bars(side.rows, side.seconds_per_image),
        }
        for title, side in found
    ]


def _bars(rows: list[Row], whole: float | None) -> list[dict[str, Any]]:
    """Rows with their part of the ``whole`` seconds of an image, longest first; the last is what they leave of it."""
    counted = sum(max(row.seconds, 0.0) for row in rows)
    known = sum(row.share or 0.0 for row in rows)
    counted /= known if 0.01 < known < 1 else 1.0  # shares may be of more than the rows
    ordered = sorted(rows, key=lambda row: -row.seconds)
    kept, cut = ordered[:PROFILE_ROWS], ordered[PROFILE_ROWS:]
    shares = [max(row.seconds, 0.0) / counted for row in kept]
    rest = 1.0 - sum(shares)
    if cut or rest >= 0.0005:
        kept, shares = (
            [*kept, Row(name=f"the rest ({len(cut)} more)" if cut else "the rest")],
            [*shares, max(rest, 0.0)],
        )
    bounds = [
        row.bound_seconds / counted if row.bound_seconds is not None and row.seconds > 0 else None for row in kept
    ]
    longest = max(*shares, *(bound or 0.0 for bound in bounds))
    return [
        {
            "name": row.name,
            "calls": row.calls,
            "seconds": None if whole is None else share * whole,
            "share": f"{tenths / 10:.1f}{words.NBSP}%",
            "length": f"{100 * share / longest:.2f}",
            "bound": None if bound is None else f"{100 * bound / longest:.2f}",
            "over": share / bound if bound else None,
        }
        for row, share, bound, tenths in zip(kept, shares, bounds, _tenths(shares), strict=True)
    ]


def _tenths(shares: list[float]) -> list[int]:
    """``shares`` of a whole in tenths of a percent that add up to it: those cut off most are rounded up."""
    found = [int(1000 * share) for share in shares]
    missing = 1000 - sum(found)
    for index in sorted(range(len(shares)), key=lambda i: found[i] - 1000 * shares[i])[:missing]:
        found[index] += 1
    return found


def per_image(run: Observation) -> str:
    """Seconds for one image of a timed run."""
    return words.seconds(run.seconds / run.images) if run.seconds is not None and run.images else words.MISSING


def parameters_of(technique: dict[str, Any]) -> str:
    """A technique's hyper-parameters in one line."""
    settings = (f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in technique.items() if k != "technique")
    return ", ".join(settings) or "defaults"


def warnings(result: Result, samples: grids.Samples) -> list[str]:
    """The run's warnings, and what the report itself noticed."""
    found = list(result.warnings or [])
    if result.speedup and result.speedup.verdict == "UNDECIDED" and result.speedup.reason:
        found.append(f"Speed is undecided: {result.speedup.reason}")
    for name, array in (("baseline", samples.baseline), ("candidate", samples.candidate)):
        broken = grids.not_finite(array)
        if broken:
            found.append(f"{broken} of the {name}'s samples hold numbers that are not finite; they are drawn as grey.")
    return found
