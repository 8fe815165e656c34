"""profile.json as its page reads it: checked once by types; a part that was not asked for is None."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from hasten.report.result import Amount, Block, Count, Environment, Name, Signed, checked, content, loaded

AGAIN = "make it again with hasten profile"
Work = Annotated[float, Field(ge=0, le=1e24)]  # FLOP, bytes moved
Positive = Annotated[float, Field(gt=1e-15, le=1e18)]
Depth = Annotated[int, Field(ge=0, le=1000)]


class Kind(Block):
    """All modules of one kind."""

    name: str
    calls: Amount | None
    seconds: Signed
    share: Signed
    flops: Work
    bytes: Work
    bound_seconds: Amount | None


class Module(Block):
    """One module where it was called."""

    name: str
    kind: str
    depth: Depth
    inclusive_seconds: Signed
    exclusive_seconds: Signed
    flops: Work
    bytes: Work
    bound_seconds: Amount | None


def _rooted(rows: list[Module]) -> list[Module]:
    """The first module is the one that all others are in, and widths are shares of its time."""
    if not rows or rows[0].inclusive_seconds <= 0:
        raise ValueError("the first module should take some time")
    return rows


class Modules(Block):
    """One evaluation by module."""

    rows: Annotated[list[Module], AfterValidator(_rooted)]
    kinds: list[Kind]
    whole_seconds: Positive
    residual_seconds: Signed
    overhead: Amount


class Operation(Block):
    """One kind of operation, as an engine counts."""

    name: str
    calls: Amount
    seconds: Amount
    share: Amount


class Operator(Block):
    """One of PyTorch's operators."""

    name: str
    calls: Amount
    inclusive_seconds: Signed
    exclusive_seconds: Signed
    flops: Work | None
    bytes: Work | None
    bound_seconds: Amount | None


class Operators(Block):
    """One evaluation, or training step, by operator."""

    rows: list[Operator]
    plain_seconds: Amount
    overhead: Amount


class Steps(Block):
    """The sampling loop."""

    network_seconds: list[Amount] = Field(min_length=1)
    seconds: Amount
    first_seconds: Amount
    steady_seconds: Amount
    outside_seconds: Signed
    cold_seconds: Amount
    overhead: Amount


class Phases(Block):
    """A training step."""

    seconds: dict[str, Amount]
    whole_seconds: Amount


class Function(Block):
    """One function of Python."""

    name: str
    place: str
    calls: Amount
    inclusive_seconds: Amount
    exclusive_seconds: Amount


class Code(Block):
    """One line of Python."""

    place: str
    code: str
    hits: Amount
    seconds: Amount


class Python(Block):
    """Python by function and by line."""

    plain_seconds: Amount
    functions: list[Function]
    functions_overhead: Amount
    lines: list[Code] | None
    lines_overhead: Amount | None


class Holder(Block):
    """What held memory at the peak."""

    owner: str
    operator: str
    bytes: Amount


class Memory(Block):
    """Live tensors over time, as pairs of seconds and bytes."""

    peak_bytes: Amount
    peak_phase: str
    resident_peak_bytes: Amount
    allocator_peak_bytes: Amount | None
    phase_peaks: dict[str, Amount]
    holders: list[Holder]
    timeline: list[Annotated[list[Amount], Field(min_length=2, max_length=2)]] = Field(min_length=1)
    overhead: Amount


class DamageRow(Block):
    """What INT8 does to one layer, by noise level."""

    name: str
    share: Amount
    decibels: list[Signed]
    kept: bool


class Damage(Block):
    """What INT8 does."""

    levels: list[str]
    least_db: Signed
    rows: list[DamageRow]


class Profile(Block):
    """All of profile.json that the page shows."""

    command: str
    created: str
    subject: Name
    label: str
    train: bool
    device: str
    images: Count
    environment: Environment
    notes: list[str]
    headline: str | None
    modules: Modules | None
    engine: list[Operation] | None
    ops: Operators | None
    steps: Steps | None
    phases: Phases | None
    python: Python | None
    memory: Memory | None
    damage: Damage | None


def read(path: Path) -> dict[str, Any]:
    """The profile in ``path`` as plain values.  Raises BadInput that names the key at fault."""
    what = f"{path} can't be shown"
    return checked(loaded(content(path, AGAIN), what, AGAIN), Profile, what, AGAIN).model_dump()
