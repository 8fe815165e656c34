"""result.json as the report reads it: what optimize wrote, checked once, with None for all that was not measured."""

from __future__ import annotations

import json
import math
import unicodedata
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from hasten.errors import BadInput
from hasten.files import why
from hasten.report.terminal import plain

VERSION = 1
MOST_LEVELS = 32  # lists and objects in one another
AGAIN = "run hasten optimize again"


def _cleaned(value: Any, levels: int = MOST_LEVELS) -> Any:
    """``value`` without the numbers that are none (NaN and infinities count as not measured), and with the control
    characters that neither XML nor HTML may hold as their escapes."""
    if levels == 0:
        raise ValueError(f"nested more than {MOST_LEVELS} levels deep")
    if isinstance(value, dict):
        found = value.items()
        return {_cleaned(key): _cleaned(inner, levels - 1) for key, inner in found if not _no_number(inner)}
    if isinstance(value, list):
        return [None if _no_number(inner) else _cleaned(inner, levels - 1) for inner in value]
    if isinstance(value, str) and not value.isprintable():
        return "".join(ascii(c)[1:-1] if _unfit(c) else c for c in value)
    return value


def _no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _unfit(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"


class Block(BaseModel):
    """Unknown fields are left alone, so that an older report reads a newer result of the same version."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Model = TypeVar("Model", bound=Block)
Count = Annotated[int, Field(ge=0, le=10**18)]
Amount = Annotated[float, Field(ge=0, le=1e18)]  # seconds, bytes, ratios
Signed = Annotated[float, Field(ge=-1e18, le=1e18)]  # relative changes, decibels
Name = Annotated[str, AfterValidator(plain)]  # in one line


def loaded(content: bytes, what: str, again: str) -> Any:
    """``content`` from JSON, cleaned.  Raises BadInput that begins with ``what`` it was not and ends with ``again``."""
    try:
        return _cleaned(json.loads(content.decode("utf-8")))
    except RecursionError:
        raise BadInput(f"{plain(what)}: nested more than {MOST_LEVELS} levels deep; {again}") from None
    except ValueError as error:
        raise BadInput(f"{plain(what)}: the file: {plain(str(error))}; {again}") from error


def checked(value: Any, model: type[Model], what: str, again: str) -> Model:
    """``value`` as a ``model``.  Raises BadInput that names the first key at fault."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadInput(plain(f"{what}: {where}: {first['msg']}; {again}")) from error


def content(path: Path, again: str) -> bytes:
    """What is in a regular file: a pipe is not waited for.  Raises BadInput where there is none."""
    try:
        if path.exists() and not path.is_file():
            raise BadInput(plain(f"{path} is no regular file; {again}"))
        return path.read_bytes()
    except OSError as error:
        raise BadInput(plain(f"{path} can't be read ({why(error)}); {again}")) from error


class Source(Block):
    """The model that was made faster; ``shape`` is one sample's."""

    name: Name
    shape: list[Count] = []
    folder: str | None = None
    weight_hash: str | None = None
    parameters: Amount | None = None
    guidance: Signed | None = None
    attribution: str | None = None


class Data(Block):
    """The reference data; ``reference`` counts the samples compared against."""

    name: Name
    samples: Count | None = None
    reference: Count | None = None


class Variant(Block):
    """The baseline or the candidate; ``evaluations`` counts network calls for one image."""

    plan: list[dict[str, Any]] = []
    label: list[str] = []
    plan_hash: str | None = None
    seconds_per_image: Amount | None = None
    peak_bytes: Amount | None = None
    weight_bytes: Amount | None = None
    evaluations: Count | None = None


class Ratio(Block):
    """A speed-up (baseline/candidate, above 1 is faster) with its 95 % interval."""

    ratio: Amount | None = None
    low: Amount | None = None
    high: Amount | None = None
    rounds: Count | None = None


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

    preparation_seconds: Amount | None = None
    images: Amount | None = None


class SecondOpinion(Block):
    """The same question asked in another feature space."""

    name: str = ""
    baseline: Signed | None = None
    candidate: Signed | None = None
    loss: Signed | None = None
    low: Signed | None = None
    high: Signed | None = None


class Copies(Block):
    """Shares of samples that are training samples again; ``real``: among real samples kept apart."""

    baseline: Amount | None = None
    candidate: Amount | None = None
    real: Amount | None = None


class Quality(Block):
    """Distances to the reference and relative losses (0.01 is 1 % worse); drifts in decibel, more is closer."""

    verdict: str = ""
    baseline_distance: Signed | None = None
    candidate_distance: Signed | None = None
    noise_floor: Signed | None = None
    loss: Signed | None = None
    loss_low: Signed | None = None
    loss_high: Signed | None = None
    detectable: Signed | None = None
    drift_db: Signed | None = None
    drift_db_converged: dict[str, Signed | None] | None = None
    second_opinion: SecondOpinion | None = None
    copies: Copies | None = None
    pairs: Count | None = None
    reference: Count | None = None
    features: str | None = None
    budget: Amount | None = None


class Candidate(Block):
    """One plan that the search tried."""

    plan: list[dict[str, Any]] = []
    label: list[str] = []
    reason: str = ""
    seconds_per_image: Amount | None = None
    loss: Signed | None = None
    drift_db: Signed | None = None
    evaluations: Count | None = None
    weight_bytes: Amount | None = None
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
    calls: Amount | None = None
    seconds: Amount = 0.0
    share: Amount | None = None
    bound_seconds: Amount | None = None


class Profile(Block):
    """Where the time goes."""

    seconds_per_image: Amount | None = None
    rows: list[Row] = []


class Profiles(Block):
    """Before and after."""

    baseline: Profile | None = None
    candidate: Profile | None = None


class Observation(Block):
    """One timed run; ``plan`` is baseline, candidate or "baseline again"."""

    plan: str
    case: Count = 0
    round: Count = 0
    seconds: Amount | None = None
    images: Count = 1
    failure: str | None = None


class Gpu(Block):
    """The first of ``count`` graphics processors."""

    name: str
    memory_bytes: Amount | None = None
    capability: str | None = None
    cuda: str | None = None
    count: Count | None = None


class Environment(Block):
    """The machine and its software; ``gpu`` is None where there is none."""

    cpu: str | None = None
    cores: Count | None = None
    memory_bytes: Amount | None = None
    gpu: Gpu | None = None
    os: str | None = None
    python: str | None = None
    packages: dict[str, str | None] = {}
    commit: str | None = None


class Result(Block):
    """All of result.json that the report shows; ``command`` makes the whole run again, ``replay`` its plan alone."""

    version: int
    source: Source
    baseline: Variant
    command: str = ""
    replay: str = ""
    seed: Count | None = None
    created: str = ""
    seconds: Amount | None = None
    data: Data | None = None
    candidate: Variant | None = None
    passed: bool = True
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


def read(path: Path) -> Result:
    """The result in ``path``.  Raises BadInput when it is missing, no JSON, of another version or of another form."""
    what = f"{path} is no result of hasten"
    found = loaded(content(path, "run hasten optimize into this folder"), what, AGAIN)
    if isinstance(found, dict) and type(version := found.get("version")) is int and version != VERSION:
        raise BadInput(plain(f"{path} has version {version}, this hasten reads version {VERSION}; run it again"))
    return checked(found, Result, what, AGAIN)
