"""result.json as the report reads it: what optimize wrote, checked once, with None for all that was not measured."""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from hasten.errors import BadInput

VERSION = 1


def _cleaned(value: Any) -> Any:
    """``value`` without the numbers that are none (NaN and infinities count as not measured) and with U+FFFD for the
    control characters that neither XML nor HTML may hold."""
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(inner) for key, inner in value.items() if not _no_number(inner)}
    if isinstance(value, list):
        return [_cleaned(inner) for inner in value if not _no_number(inner)]
    if isinstance(value, str):
        return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in value)
    return value


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


class Block(BaseModel):
    """Unknown fields are left alone, so that an older report reads a newer result of the same version."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Source(Block):
    """The model that was made faster; ``shape`` is one sample's."""

    name: str
    shape: tuple[int, ...] = ()
    folder: str | None = None
    weight_hash: str | None = None
    parameters: float | None = None
    guidance: float | None = None
    attribution: str | None = None


class Data(Block):
    """The reference data; ``reference`` counts the samples compared against."""

    name: str
    samples: int | None = None
    reference: int | None = None


class Variant(Block):
    """The baseline or the candidate; ``evaluations`` counts network calls for one image."""

    plan: list[dict[str, Any]] = []
    label: list[str] = []
    plan_hash: str | None = None
    seconds_per_image: float | None = None
    peak_bytes: float | None = None
    weight_bytes: float | None = None
    evaluations: int | None = None


class Ratio(Block):
    """A speed-up (baseline/candidate, above 1 is faster) with its 95 % interval."""

    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int | None = None


class Speedup(Ratio):
    """The confirmed speed-up; ``noise_floor`` compares the baseline with itself."""

    verdict: str = "UNDECIDED"
    noise_floor: Ratio | None = None
    reason: str = ""


class Part(Ratio):
    """What one technique adds: the speed-up lost when it alone is taken away; ``share``: Shapley's."""

    technique: str = ""
    label: str = ""
    removed: list[str] = []
    verdict: str = "UNDECIDED"
    share: Ratio | None = None


class BreakEven(Block):
    """After how many images the preparation has paid for itself; ``images`` None means never."""

    preparation_seconds: float | None = None
    images: float | None = None


class SecondOpinion(Block):
    """The same question asked in another feature space."""

    name: str = ""
    baseline: float | None = None
    candidate: float | None = None
    loss: float | None = None
    low: float | None = None
    high: float | None = None


class Copies(Block):
    """Shares of samples that are training samples again; ``real``: among real samples kept apart."""

    baseline: float | None = None
    candidate: float | None = None
    real: float | None = None


class Quality(Block):
    """Distances to the reference and relative losses (0.01 is 1 % worse); drifts in decibel, more is closer."""

    verdict: str = ""
    baseline_distance: float | None = None
    candidate_distance: float | None = None
    noise_floor: float | None = None
    loss: float | None = None
    loss_low: float | None = None
    loss_high: float | None = None
    detectable: float | None = None
    drift_db: float | None = None
    drift_db_converged: dict[str, float | None] | None = None
    second_opinion: SecondOpinion | None = None
    copies: Copies | None = None
    pairs: int | None = None
    reference: int | None = None
    features: str | None = None
    budget: float | None = None


class Candidate(Block):
    """One plan that the search tried."""

    plan: list[dict[str, Any]] = []
    label: list[str] = []
    reason: str = ""
    seconds_per_image: float | None = None
    loss: float | None = None
    drift_db: float | None = None
    evaluations: int | None = None
    weight_bytes: float | None = None
    front: str | None = None
    ok: bool = True
    failure: str | None = None


class Refused(Block):
    """A technique that was not used, and the reason."""

    technique: str = ""
    label: str | None = None
    reason: str = ""


class Proposed(Block):
    """A plan that the profile suggested, and the reason."""

    label: str | list[str] = ""
    reason: str = ""


class Row(Block):
    """One kind of operation; ``bound_seconds`` is the least time that the machine's measured peaks allow."""

    name: str
    calls: float | None = None
    seconds: float = 0.0
    share: float | None = None
    bound_seconds: float | None = None


class Profile(Block):
    """Where the time goes."""

    seconds_per_image: float | None = None
    rows: list[Row] = []


class Profiles(Block):
    """Before and after."""

    baseline: Profile | None = None
    candidate: Profile | None = None


class Observation(Block):
    """One timed run; ``plan`` is baseline, candidate or "baseline again"."""

    plan: str
    case: int = 0
    round: int = 0
    seconds: float | None = None
    images: int = 1
    failure: str | None = None


class Environment(Block):
    """The machine and its software."""

    cpu: str | None = None
    cores: int | None = None
    memory_bytes: float | None = None
    gpu: str | None = None
    os: str | None = None
    python: str | None = None
    packages: dict[str, str | None] = {}
    commit: str | None = None


class Result(Block):
    """All of result.json that the report shows."""

    version: int
    source: Source
    baseline: Variant
    command: str = ""
    seed: int | None = None
    created: str = ""
    seconds: float | None = None
    data: Data | None = None
    candidate: Variant | None = None
    speedup: Speedup | None = None
    break_even: BreakEven | None = None
    quality: Quality | None = None
    attribution: list[Part] | None = None
    candidates: list[Candidate] | None = None
    refused: list[Refused] | None = None
    proposed: list[Proposed] | None = None
    profile: Profiles | None = None
    observations: list[Observation] | None = None
    environment: Environment | None = None
    interrupted: bool = False
    warnings: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, values: Any) -> Any:
        return _cleaned(values)


def read(path: Path) -> Result:
    """The result in ``path``.  Raises BadInput when it is missing, no JSON, of another version or of another form."""
    try:
        result = Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}); run hasten optimize into this folder") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(f"{path} is no result of hasten: {where}: {first['msg']}; run hasten optimize again") from error
    if result.version != VERSION:
        raise BadInput(f"{path} has version {result.version}, this hasten reads version {VERSION}; run it again")
    return result
