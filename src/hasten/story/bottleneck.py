"""What a person needs to hear first of a profile: where the time goes, and whether the machine could do better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hasten.measure.profile import OTHER, Row
from hasten.measure.roofline import Peaks

SMALLEST_SHARE = 0.05
MOST_GROUPS = 4
NEAR_PEAK = 0.5  # from this share of the copy peak on, time is a matter of memory


@dataclass
class _Group:
    words: str
    rows: list[Row] = field(default_factory=list)

    @property
    def share(self) -> float:
        return sum(row.share for row in self.rows)

    @property
    def seconds(self) -> float:
        return sum(row.seconds for row in self.rows)


def headline(kinds: Sequence[Row], peaks: Peaks) -> str:
    """ "71 % of the time in 12 3x3 convolutions at 41 % of this machine's float32 peak; attention 9 %"."""
    groups: dict[str, _Group] = {}
    for row in kinds:
        words = _words(row.name)
        groups.setdefault(words, _Group(words)).rows.append(row)
    ranked = sorted(groups.values(), key=lambda group: -group.share)
    shown = [group for group in ranked if group.share >= SMALLEST_SHARE][:MOST_GROUPS] or ranked[:1]
    first, *others = shown
    calls = sum(row.calls for row in first.rows)
    counted = f"{calls:.0f} " if calls and first.words[-1] == "s" else ""
    parts = [f"{first.share:.0%} of the time in {counted}{first.words} {_reached(first, peaks)}"]
    for group in others:
        memory = _copy_share(group, peaks)
        bound = ", memory-bound" if not _compute_bound(group, peaks) and memory >= NEAR_PEAK else ""
        parts.append(f"{group.words} {group.share:.0%}{bound}")
    return "; ".join(parts).replace("%", " %")


def _words(kind: str) -> str:
    """A kind of module as people call it."""
    if kind == OTHER:
        return "what blocks do themselves (additions, joins, Python)"
    convolution = re.fullmatch(r"(?:Lora|Lazy)?Conv(Transpose)?\dd? ([\dx]+)", kind)
    if convolution:
        return f"{convolution[2]} {'transposed ' if convolution[1] else ''}convolutions"
    if "Linear" in kind:
        return "linear layers"
    if "Norm" in kind:
        return "normalisation"
    if kind in ("SiLU", "GELU", "ReLU", "Mish", "Tanh", "Sigmoid", "LeakyReLU"):
        return "activations"
    return kind


def _compute_bound(group: _Group, peaks: Peaks) -> bool:
    flops, moved = sum(row.flops for row in group.rows), sum(row.bytes for row in group.rows)
    return flops / peaks.float32_flops_per_second > moved / peaks.copy_bytes_per_second


def _copy_share(group: _Group, peaks: Peaks) -> float:
    return sum(row.bytes for row in group.rows) / group.seconds / peaks.copy_bytes_per_second if group.seconds else 0.0


def _reached(group: _Group, peaks: Peaks) -> str:
    if _compute_bound(group, peaks):
        reached = sum(row.flops for row in group.rows) / group.seconds / peaks.float32_flops_per_second
        return f"at {reached:.0%} of this machine's float32 peak"
    return f"at {_copy_share(group, peaks):.0%} of this machine's copy peak"
