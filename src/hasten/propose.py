"""From a profile and a model's facts to plans worth trying, each with its reason."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from hasten.measure.profile import Row
from hasten.model.target import Facts
from hasten.search.space import Cost, Space
from hasten.technique.compile import Compile
from hasten.technique.contract import Technique
from hasten.technique.int8_linear import Int8Linear
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.precision import Precision
from hasten.technique.quantize import Quantize
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import Sampler
from hasten.technique.swap import Swap
from hasten.technique.upsampling import Upsampling
from hasten.technique.weights import Weights

COMPILE_SECONDS = 600.0
PRODUCTS = ("Conv", "Linear", "attention")
LINEAR_SHARE = 0.2  # of the time, under which INT8 in linear layers is not tried


@dataclass(frozen=True)
class Proposal:
    """A plan for the network alone (no sampler) and why it may pay here."""

    plan: Plan
    reason: str


@dataclass(frozen=True)
class Refusal:
    """A technique that is not in the result, and why."""

    technique: str
    label: str
    reason: str


def ways(
    facts: Facts, rows: Sequence[Row], seconds: float, students: Sequence[Swap] = (), small: bool = False
) -> tuple[list[Proposal], list[Refusal]]:
    """Ways to run the same network faster, cheapest preparation first, and what was refused from the start.

    ``seconds``: what the whole run may take; inductor compiles for too long to be tried in a short one.  ``students``:
    networks that may take the model's place, each tried in all the same ways.  ``small``: whether bytes on disk count.
    """
    products = sum(row.share for row in rows if row.name.startswith(PRODUCTS))
    linear, rest = sum(row.share for row in rows if row.name.startswith("Linear")), 1.0 - products
    reasons = {
        Upsampling.name: "convolutions after upsampling multiply 4/9 as often as one with it",
        Layout.name: f"{products:.0%} of the time is in matrix products that channels-last kernels may do faster",
        Precision.name: f"{products:.0%} of the time is in matrix products, at half the bytes in 16 bits",
        Int8Linear.name: f"{linear:.0%} of the time is in linear layers, which INT8 instructions may do faster",
        Compile.name: f"{rest:.0%} of the time is outside matrix products, where fusion may help",
        Runtime.name: f"{rest:.0%} of the time is outside matrix products: a static graph fuses it and picks layouts",
        Quantize.name: f"{products:.0%} of the time is in matrix products, which INT8 instructions may do faster",
        Swap.name: "a smaller network has fewer of all operations",
        Weights.name: "weights in fewer bits are smaller on disk; no speed is to be had from them",
    }
    layouts, precisions, compilers = Layout.choices(facts), Precision.choices(facts), Compile.choices(facts)
    runtimes, quantizers = Runtime.choices(facts), Quantize.choices(facts)
    wanted: list[tuple[Technique, ...]] = [
        *((t,) for t in layouts),
        *((t,) for t in precisions),
        *((t,) for t in runtimes),
        *itertools.product(runtimes, quantizers),
    ]
    linears = Int8Linear.choices(facts) if linear >= LINEAR_SHARE else ()
    if seconds >= COMPILE_SECONDS:
        halves = precisions[:1]  # one of them: they are equally fast
        wanted += [*itertools.product(layouts, compilers), *itertools.product(halves, compilers)]
        wanted += [*itertools.product(linears, compilers), *itertools.product(halves, linears, compilers)]
    most = max((each.streams for each in runtimes), default=1)
    if facts.upsamplers:  # where the batch is cut most, which is where the time goes
        fused = [techniques for techniques in wanted if Runtime(streams=most, precision="float32") in techniques]
        wanted += [(each, *techniques) for each in Upsampling.choices(facts) for techniques in fused]
    if small:
        fast = tuple(each for each in runtimes if each.precision == "float32" and each.streams == 1)
        rounded = Weights.choices(facts)
        # first, as the time may not be enough to prepare all
        wanted[:0] = [*itertools.product(fast, rounded), *itertools.product(fast, quantizers, rounded)]
    wanted += [(student, *techniques) for student in students for techniques in [(), *wanted]]
    proposals: list[Proposal] = []
    refusals: dict[str, Refusal] = {}
    if seconds < COMPILE_SECONDS:
        late = f"not tried: compiling takes about a minute; give a run {COMPILE_SECONDS / 60:.0f} minutes"
        compiled: tuple[Technique, ...] = (*compilers, *linears)
        refusals = {t.name: Refusal(t.name, t.label, late) for t in compiled}
    if linear < LINEAR_SHARE:
        few = (
            f"not tried: {linear:.0%} of the time is in linear layers, and under {LINEAR_SHARE:.0%} little can be saved"
        )
        refusals |= {t.name: Refusal(t.name, t.label, few) for t in Int8Linear.choices(facts)}
    for techniques in wanted:
        plan = Plan(techniques)
        reason = plan.refusal(facts)
        if reason is None:
            proposals.append(Proposal(plan, reasons[(plan.find(Int8Linear.name) or techniques[-1]).name]))
        else:
            name, _, why = reason.partition(": ")
            refused = plan.find(name)
            assert refused is not None
            refusals[name] = Refusal(name, refused.label, why)
    tried = {t.name for p in proposals for t in p.plan.techniques}
    return proposals, [refusal for name, refusal in refusals.items() if name not in tried]


def space(facts: Facts, costs: Sequence[Cost], ranked_on: str) -> Space:
    """What is searched: the ways that were kept, and solvers with time grids and numbers of evaluations."""
    samplers = Sampler.choices(facts)
    tables = tuple(dict.fromkeys((s.solver, s.grid) for s in samplers))
    return Space(tuple(costs), ranked_on, tables, tuple(sorted({s.steps for s in samplers})))
