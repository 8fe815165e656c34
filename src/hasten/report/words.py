"""Numbers as a person reads them: three significant digits, a unit, and a plain word where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hasten import files

MISSING = "not measured"
NBSP = "\u00a0"
MINUS = "\u2212"


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant ones, thousands set apart: 0.0312, 19.6, 4,495."""
    if value is None:
        return MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded if decimals else value:,.{decimals}f}".replace("-", MINUS)


def whole(value: float | None) -> str:
    """A count: 4,495."""
    return MISSING if value is None else f"{value:,.0f}"


def _scaled(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    """``value`` in the first unit that it reaches, else in the last."""
    if value is None:
        return MISSING
    scale, unit = next((u for u in units if abs(value) >= u[0] * 0.9995), units[-1])
    return f"{number(value / scale)}{NBSP}{unit}"


def seconds(value: float | None) -> str:
    """A duration: 410 ms, 1.23 s, 4 min 31 s."""
    if value is not None and value >= 120:
        minutes, rest = divmod(round(value), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}{NBSP}h {minutes}{NBSP}min" if hours else f"{minutes}{NBSP}min {rest}{NBSP}s"
    return _scaled(value, ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def size(value: float | None) -> str:
    """Bytes as the terminal has them, see :func:`hasten.files.size`: 812 MB."""
    return MISSING if value is None else files.size(value).replace(" ", NBSP)


def parameters(value: float | None) -> str:
    """3.77 M."""
    return _scaled(value, ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))).strip()


def share(value: float | None) -> str:
    """A share of a whole: 61 %."""
    if value is None:
        return MISSING
    return f"{100 * value:.{0 if value >= 0.0995 else 1}f}{NBSP}%"


def change(value: float | None) -> str:
    """A relative change with its sign: +1.2 %, −3.0 %."""
    if value is None:
        return MISSING
    text = f"{100 * value:+,.{1 if abs(value) < 0.9995 else 0}f}".replace("-", MINUS)
    return f"{'0.0' if text[1:] == '0.0' else text}{NBSP}%"


def times(value: float | None) -> str:
    """A factor: 19.6×."""
    return MISSING if value is None else f"{number(value)}×"


def near_one(value: float | None) -> str:
    """A ratio that ought to be 1: 0.991, 1.012."""
    return MISSING if value is None else f"{value:.3f}"


def adds(verdict: str, low: float | None, high: float | None) -> str:
    """What it means that a plan without a technique is so many times slower."""
    if verdict != "UNDECIDED" and low is not None and high is not None:
        if low > 1:
            return "helps: slower without it"
        if high < 1:
            return "costs speed: faster without it"
    return "undecided: no difference seen"


def decibel(value: float | None) -> str:
    """31.2 dB."""
    return MISSING if value is None else f"{number(value)}{NBSP}dB"


def label(parts: str | Sequence[str]) -> str:
    """The parts of a plan's label in one line."""
    return parts if isinstance(parts, str) else ", ".join(parts) or "no technique"


def cut(text: str, limit: int) -> str:
    """``text`` in one line of at most ``limit`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
