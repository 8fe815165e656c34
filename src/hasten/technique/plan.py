"""A plan: techniques in stage order.  It prints, parses, hashes, and says why it can't be applied."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten import __version__
from hasten.environment import environment, fingerprint
from hasten.errors import BadInput, HastenError, did_you_mean, shown
from hasten.files import small_text, toml, write_text
from hasten.model.target import TORCH_PROPERTIES, Facts, Target
from hasten.runtime import openvino
from hasten.technique.answers import INPUTS, check, own_answers
from hasten.technique.compile import Compile
from hasten.technique.contract import Prepared, Stage, Technique
from hasten.technique.int8_linear import Int8Linear
from hasten.technique.layout import Layout
from hasten.technique.precision import Precision
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling
from hasten.technique.weights import Weights

if TYPE_CHECKING:
    from hasten.model.source import Source  # not to import diffusers for a list of techniques

TECHNIQUES: tuple[type[Technique], ...] = (
    Swap, Upsampling, Layout, Precision, Int8Linear, Runtime, Quantize, Weights, Compile, Sampler,
)  # fmt: skip
OPENVINO = "openvino_graph"
VERSION = 1
LIMIT_BYTES = 1 << 14
LARGEST = 1 << 31  # no number of a technique is


@dataclass(frozen=True)
class Plan:
    """``Plan()`` is the baseline.  The order given does not matter: stages do."""

    techniques: tuple[Technique, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "techniques", tuple(sorted(self.techniques, key=lambda t: t.effects.stage)))

    @property
    def label(self) -> list[str]:
        """The plan for people, whatever the model."""
        return self.label_on("its own sampler")

    def label_on(self, sampler: str) -> list[str]:
        """The same for a model whose own sampler is called ``sampler``: "DDIM 50 steps"."""
        names = {t.name: t.label for t in self.techniques}
        sampler = names.pop("sampler", sampler)
        engine = [names.pop(name) for name in ("runtime", "compile") if name in names] or ["PyTorch eager"]
        number = [names.pop(name) for name in ("precision", "int8_linear", "quantize") if name in names]
        if not number and self.find("runtime") is None:  # whose label names its own
            number = ["float32"]
        return [sampler, *engine, *number, *names.values()]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of what the plan says."""
        return hashlib.sha256(json.dumps(self.to_list(), sort_keys=True).encode()).hexdigest()[:16]

    def find(self, name: str) -> Technique | None:
        """The technique of that name, if the plan has it."""
        return next((t for t in self.techniques if t.name == name), None)

    def plus(self, *techniques: Technique) -> Plan:
        """This plan with ``techniques`` in place of those of the same names."""
        names = {t.name for t in techniques}
        return Plan((*(t for t in self.techniques if t.name not in names), *techniques))

    def without(self, name: str) -> tuple[Plan, list[str]]:
        """This plan without the technique ``name`` and without those that can't hold once it is gone; their names."""
        left = [t for t in self.techniques if t.name != name]
        removed = [name]
        while (unfit := _unfit(tuple(left))) is not None:
            left.remove(unfit[0])
            removed.append(unfit[0].name)
        return Plan(tuple(left)), removed

    @property
    def self_contained(self) -> bool:
        """Whether an engine's own graph does the work, so that the model's weights need not be there."""
        return any(OPENVINO in t.effects.gives for t in self.techniques) and self.find(Swap.name) is None

    @property
    def stands(self) -> bool:
        """Whether each technique finds what it needs, whatever the model."""
        return _unfit(self.techniques) is None

    def refusal(self, facts: Facts) -> str | None:
        """One sentence on why this plan can't be applied to such a model, or None."""
        unfit = _unfit(self.techniques)
        if unfit is not None:
            return unfit[1]
        for technique in self.techniques:
            reason = technique.refuse(facts)
            if reason is not None:
                return f"{technique.name}: {reason}"
        return None

    def to_list(self) -> list[dict[str, Any]]:
        """Plain values, a dictionary a technique."""
        return [{"technique": t.name, **dataclasses.asdict(t)} for t in self.techniques]  # type: ignore[call-overload]

    def to_toml(self) -> str:
        """The text that :func:`parse` reads."""
        return toml({"version": VERSION, "techniques": self.to_list()})


def _unfit(techniques: tuple[Technique, ...]) -> tuple[Technique, str] | None:
    """The first technique that what comes before it does not allow, and why."""
    holds: set[str] = set(TORCH_PROPERTIES)
    broken_by: dict[str, Technique] = {}
    taken: dict[str, Technique] = {}
    for technique in techniques:
        effects = technique.effects
        for slot in sorted(effects.claims):
            if slot in taken:
                return technique, f"{technique.name}: {taken[slot].label} already takes the slot {slot!r}; drop one"
            taken[slot] = technique
        for needed in sorted(effects.requires):
            if needed not in holds:
                by = broken_by.get(needed)
                why = f"{by.label} took it away" if by else "nothing in the plan gives it"
                return technique, f"{technique.name}: needs {needed!r}, and {why}; drop {technique.name}"
        for lost in effects.breaks & holds:
            broken_by[lost] = technique
        holds = (holds - effects.breaks) | effects.gives
    return None


def build(source: Source, plan: Plan, prepared: Prepared | None = None, batch: int = INPUTS) -> Target:
    """A fresh target from ``source`` with ``plan`` applied, that answers as the network does.

    It is asked ``batch`` samples at once for that, as it will be, so that nothing is compiled twice; 0 leaves it out
    where it was done already.  Raises BadInput when the plan is refused, HastenError with the figure for other answers.
    """
    target = source.build()
    reason = plan.refusal(target.facts)
    if reason is not None:
        raise BadInput(reason)
    prepared = prepared or prepare(source)
    engines = [t for t in plan.techniques if OPENVINO in t.effects.gives | t.effects.requires]
    changed = [t for t in plan.techniques if t.effects.stage is not Stage.SAMPLER]
    wanted = own_answers(target) if batch and changed else None
    for technique in plan.techniques:
        with _told(technique, source):
            technique.apply_(target, prepared)
            if technique in engines[-1:] and isinstance(target.network, openvino.Network):
                _ = target.network.graph  # of the graphs on the way, only what this one still has to be made of is made
            if technique.name == Swap.name and batch:  # its own network is what the others change
                wanted, changed = own_answers(target), [t for t in changed if t is not technique]
    if wanted is not None and changed:
        floor = min(t.effects.fidelity.floor_db for t in changed)
        doubled = 2 if target.guidance != 1.0 and target.facts.null_label is not None else 1
        with _told(changed[-1], source):
            check(wanted, target, target.network, " + ".join(t.label for t in changed), floor, batch * doubled)
    return target


@contextmanager
def _told(technique: Technique, source: Source) -> Iterator[None]:
    """What an engine raises as one line: its own are many, and the cause is the last."""
    try:
        yield
    except (RuntimeError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        last = lines[-1] if lines[0].startswith("Exception from") else lines[0]
        raise HastenError(f"{technique.name} ({technique.label}) failed on {source.name}: {last.strip()}") from error


def prepare(source: Source) -> Prepared:
    """Where preparations for ``source`` on this machine are kept."""
    return Prepared(f"{__version__}|{source.weight_hash}|{source.shape}|{source.guidance}|{fingerprint(environment())}")


def parse(text: str, where: str = "plan") -> Plan:
    """The plan in a TOML text.  Raises BadInput that names the technique, the field and what is known."""
    try:
        return _from_toml(tomllib.loads(text), where)
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply; see a plan.toml that hasten wrote") from None
    except BadInput:
        raise
    except ValueError as error:  # a TOMLDecodeError, or a number with more digits than Python prints
        raise BadInput(f"{where} is not TOML: {' '.join(str(error).split())}") from error


def _from_toml(values: dict[str, Any], where: str) -> Plan:
    for key in values:
        if key not in ("version", "techniques"):
            raise BadInput(f"{where}: {shown(key)} is not known{did_you_mean(key, ('version', 'techniques'))}")
    version = values.get("version", VERSION)
    if type(version) is not int or version != VERSION:
        raise BadInput(f"{where}: version = {shown(version)}, this hasten reads {VERSION}; write the plan again")
    if "techniques" not in values:
        raise BadInput(f"{where}: techniques is missing; see a plan.toml that hasten wrote (techniques = [] is none)")
    return from_list(values["techniques"], where)


def from_list(rows: Any, where: str = "plan") -> Plan:
    """The inverse of :meth:`Plan.to_list`, checked."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(f"{where}: 'techniques' must be a list of tables; see a plan.toml that hasten wrote")
    techniques: dict[str, Technique] = {}
    for row in rows:
        technique = _from_row(row, where)
        if technique.name in techniques:
            raise BadInput(f"{where}: technique {technique.name!r} is there twice; keep one of the two")
        techniques[technique.name] = technique
    return Plan(tuple(techniques.values()))


def _from_row(row: dict[str, Any], where: str) -> Technique:
    """One technique; what its own checks say gets ``where`` in front."""
    known = {t.name: t for t in TECHNIQUES}
    name = row.get("technique", "")
    if not isinstance(name, str) or name not in known:
        raise BadInput(f"{where}: technique {shown(name)} is not known{did_you_mean(str(name)[:80], known)}")
    fields = {f.name: f for f in dataclasses.fields(known[name])}  # type: ignore[arg-type]
    given = {key: value for key, value in row.items() if key != "technique"}
    for key, value in given.items():
        if key not in fields:
            raise BadInput(f"{where}: {name}: {shown(key)} is not known{did_you_mean(key[:80], fields)}")
        if type(value).__name__ != fields[key].type:
            raise BadInput(f"{where}: {name}.{key} = {shown(value)} must be of type {fields[key].type}")
        if isinstance(value, int | float) and not abs(value) < LARGEST:
            raise BadInput(f"{where}: {name}.{key} is not finite, or too large; see what {name} takes")
    for key, field in fields.items():
        if key not in given and field.default is dataclasses.MISSING:
            raise BadInput(f"{where}: {name}.{key} is missing; add it")
    try:
        return known[name](**given)
    except BadInput as error:
        raise BadInput(f"{where}: {' '.join(str(error).split())}") from error


def read(path: Path | str) -> Plan:
    """The plan in a TOML file of at most 16 KiB.  Raises BadInput as :func:`parse` does, and for what is no such file.

    tomllib's time grows with the square of the file's size: 0.6 s for the worst 16 KiB, hours for 1 MiB.
    """
    return parse(small_text(Path(path), LIMIT_BYTES, "plan"), str(path))


def write(plan: Plan, path: Path | str) -> None:
    """Write ``plan`` as TOML, whole or not at all."""
    write_text(path, plan.to_toml())
