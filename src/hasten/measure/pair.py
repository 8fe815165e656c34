"""Paired, interleaved timing: whether a candidate is faster than a baseline, by how much, and how sure that is.

Rounds are outermost.  In each, every plan samples the same case, so from the same noise, in an order drawn anew
(:mod:`hasten.measure.order`); a machine that slows down or is disturbed thus hits all of them alike.  The figure is the
median over rounds of candidate/baseline (:mod:`hasten.measure.stats`); why it may be in doubt all the same, says
:mod:`hasten.measure.doubt`.  Building and warming up are timed apart and are no part of it.

**When to stop** may depend on time and on the person (``stop``) and on how wide the intervals are (``narrow``), never
on which side of 1 the ratios lie: going on until they please would make false verdicts as likely as one likes.  The
total time of a round does not tell which plan was the slower one, so ending by it is safe.

It takes builders and knows nothing of plans or techniques: none is graded by its own rules.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from hasten.measure import device, doubt
from hasten.measure.clock import Clock, settled
from hasten.measure.order import orders
from hasten.measure.stats import FEWEST_ROUNDS, Interval, Verdict, median_ratio, verdict


class Sampler(Protocol):
    """What a builder returns: samples (images, ...) of a case, a tensor."""

    def sample(self, case: Any) -> torch.Tensor: ...


class Workload(Protocol):
    """Cases of one size; what a case is, only the samplers know."""

    @property
    def cases(self) -> Sequence[Any]: ...
    @property
    def images_per_case(self) -> int: ...


Builder = Callable[[], Sampler]


@dataclass(frozen=True)
class Observation:
    """One sample of a ``case`` (its place in the workload), or why there is none: then ``seconds`` is None.

    ``peak_bytes``: on CUDA the most that torch's allocator held for this plan, what it keeps between samples included;
    else None.  A failure while building or warming up has round -1.
    """

    plan: str
    case: int
    round: int
    seconds: float | None
    images: int
    peak_bytes: int | None = None
    failure: str | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What the rounds say of candidate (b) against baseline (a).

    ``interval`` is candidate/baseline, None when no round was whole; ``reason`` says why the verdict is UNDECIDED, else
    is empty.  ``observations`` are in the order in which they were made.  ``samples_a`` and ``samples_b`` hold, on the
    host, the first samples of each case that both answered, by case.  Seconds of building and warming up are None when
    that failed.  ``warnings`` change no verdict (:mod:`hasten.measure.doubt`).  ``clock_overhead``: the clock's own
    cost as a share of the shorter plan's sample.  ``clock_mhz``: the processor's (the GPU's) frequency after the first
    round and after the last one, None where the system does not tell.
    """

    interval: Interval | None
    verdict: Verdict
    reason: str
    observations: tuple[Observation, ...]
    samples_a: tuple[torch.Tensor, ...]
    samples_b: tuple[torch.Tensor, ...]
    build_seconds_a: float | None
    build_seconds_b: float | None
    warmup_seconds_a: float | None
    warmup_seconds_b: float | None
    warnings: tuple[str, ...] = ()
    clock_overhead: float | None = None
    clock_mhz: tuple[float, float] | None = None

    def seconds_per_image(self, plan: str) -> float:
        """The median over rounds of ``plan``'s seconds per image; NaN when it has none."""
        each = [o.seconds / o.images for o in self.observations if o.plan == plan and o.seconds is not None]
        return float(np.median(each)) if each else math.nan


@dataclass
class _Runner:
    """One plan while it is being measured; ``log`` is one for all plans, in the order in which they ran."""

    name: str
    log: list[Observation]
    sampler: Sampler | None = None
    build_seconds: float | None = None
    warmup_seconds: float | None = None
    samples: dict[int, torch.Tensor] = field(default_factory=dict)
    resident_bytes: int = 0
    failure: str | None = None

    def fail(self, case: int, round_: int, images: int, failure: str) -> None:
        self.failure, self.sampler = failure, None
        self.samples.pop(case, None)
        self.log.append(Observation(self.name, case, round_, None, images, failure=failure))

    def seconds(self) -> dict[int, float]:
        """By round."""
        return {o.round: o.seconds for o in self.log if o.plan == self.name and o.seconds is not None}


@dataclass(frozen=True)
class Rounds:
    """How long plans are timed, and on which clock.

    ``most`` rounds, after ``warmup`` samples of the first case by each plan, in orders drawn by ``seed``; none is begun
    once ``stop()`` says so, nor, after the ninth, once every ratio's interval reaches no further than ``narrow`` (0.05
    is 5 %) from it.  ``on_round(done, most)`` is called after each.  ``clock`` is that of the device that the plans run
    on, the host's by default.
    """

    most: int = 15
    warmup: int = 1
    seed: int = 0
    stop: Callable[[], bool] | None = None
    on_round: Callable[[int, int], None] | None = None
    clock: Clock | None = None
    narrow: float | None = None


FIFTEEN, NINE = Rounds(), Rounds(FEWEST_ROUNDS)


def compare(build_a: Builder, build_b: Builder, workload: Workload, rounds: Rounds = FIFTEEN) -> Comparison:
    """:func:`compare_many` of two: ``build_a`` makes the plan ``"baseline"``, ``build_b`` the ``"candidate"``."""
    return compare_many({"baseline": build_a, "candidate": build_b}, "baseline", workload, rounds)["candidate"]


def noise_floor(build: Builder, workload: Workload, rounds: Rounds = NINE) -> Comparison:
    """An A/A run: the baseline, built twice, against itself.  How far its interval reaches is what noise alone does."""
    twice = {"baseline": build, "baseline again": build}
    return compare_many(twice, "baseline", workload, rounds)["baseline again"]


def compare_many(
    builders: Mapping[str, Builder], reference: str, workload: Workload, rounds: Rounds = FIFTEEN
) -> dict[str, Comparison]:
    """Measure all plans in the same rounds, each against the plan ``reference``.

    Round r takes case r modulo their number.  A plan that fails to build or to sample, or whose samples aren't finite
    or have another shape than the reference's, drops out with its reason and the others go on; without the reference
    all ends.  Raises ValueError for a workload without cases or an unknown reference.
    """
    cases = list(workload.cases)
    if not cases or reference not in builders:
        raise ValueError("a comparison needs a case and a reference that is among its builders")
    clock, stop, order_of = rounds.clock or Clock(), rounds.stop, random.Random(rounds.seed)  # noqa: S311
    images, log, mhz = workload.images_per_case, list[Observation](), list[float]()
    runners = {name: _Runner(name, log) for name in builders}
    for name, runner in runners.items():
        _prepare(runner, builders[name], cases[0], rounds.warmup, images, clock)
    with settled():
        for round_, order in enumerate(orders(list(builders), reference, rounds.most, order_of)):
            alive = [runners[name] for name in order if runners[name].failure is None]
            late = stop is not None and stop()
            if runners[reference].failure or len(alive) < 2 or late or _known(alive, runners[reference], rounds.narrow):
                break
            case = round_ % len(cases)
            for runner in alive:
                _sample(runner, cases[case], case, round_, images, clock)
            _check_samples(runners[reference], alive, case, round_, images)
            mhz += [found for found in [device.clock_mhz(clock.device)] if found is not None]  # while it is still busy
            if rounds.on_round:
                rounds.on_round(round_ + 1, rounds.most)
    others = [name for name in builders if name != reference]
    clock_mhz = (mhz[0], mhz[-1]) if mhz else None
    return {name: _comparison(runners[reference], runners[name], rounds.most, clock, clock_mhz) for name in others}


def _known(alive: list[_Runner], reference: _Runner, narrow: float | None) -> bool:
    """Whether nine rounds were made and every ratio is known within ``narrow``; that looking after each round makes no
    false verdict more likely is simulated in ``tests/numerics/test_verdicts.py``."""
    base = reference.seconds()
    if narrow is None or len(base) < FEWEST_ROUNDS:
        return False
    ratios = [
        median_ratio(*zip(*((base[r], s) for r, s in one.seconds().items()), strict=True))
        for one in alive
        if one is not reference
    ]
    return all(max(each.high / each.ratio, each.ratio / each.low) <= 1.0 + narrow for each in ratios)


def _prepare(runner: _Runner, builder: Builder, case: Any, warmup: int, images: int, clock: Clock) -> None:
    before, begun = device.allocated_bytes(clock.device), clock.now()
    try:
        sampler = builder()
        runner.build_seconds = clock.now() - begun
        begun = clock.now()
        for _ in range(warmup):
            sampler.sample(case)
        runner.warmup_seconds = clock.now() - begun
        runner.resident_bytes = (device.allocated_bytes(clock.device) or 0) - (before or 0)
        runner.sampler = sampler
    except Exception as error:
        runner.fail(0, -1, images, _one_line(error))


def _sample(runner: _Runner, case: Any, index: int, round_: int, images: int, clock: Clock) -> None:
    sampler = runner.sampler
    assert sampler is not None
    device.reset_peak(clock.device)
    before = device.allocated_bytes(clock.device)  # all plans', so what this one keeps is added to its own rise
    try:
        seconds, sample = clock.time(lambda: sampler.sample(case))
        peak = device.peak_allocated_bytes(clock.device)
        if index not in runner.samples:
            runner.samples[index] = sample.detach().cpu()
    except Exception as error:
        runner.fail(index, round_, images, _one_line(error))
    else:
        own = None if peak is None or before is None else runner.resident_bytes + peak - before
        runner.log.append(Observation(runner.name, index, round_, seconds, images, own))


def _check_samples(reference: _Runner, runners: list[_Runner], case: int, round_: int, images: int) -> None:
    """A plan that makes fewer, smaller or broken samples is no faster one."""
    expected = reference.samples.get(case)
    for runner in runners:
        sample = runner.samples.get(case)
        if runner.failure or sample is None or expected is None:
            continue
        if sample.shape != expected.shape:
            wanted, made = tuple(expected.shape), tuple(sample.shape)
            runner.fail(case, round_, images, f"made samples of shape {made}, {reference.name} makes {wanted}")
        elif not torch.isfinite(sample).all():
            runner.fail(case, round_, images, "made samples with NaN or infinite values")


def _comparison(a: _Runner, b: _Runner, rounds: int, clock: Clock, clock_mhz: tuple[float, float] | None) -> Comparison:
    seconds_a, seconds_b = a.seconds(), b.seconds()
    whole = sorted(seconds_a.keys() & seconds_b.keys())
    sides = {a.name: [seconds_a[r] for r in whole], b.name: [seconds_b[r] for r in whole]}
    interval = median_ratio(*sides.values()) if whole else None
    failures = [f"{runner.name} failed: {runner.failure}" for runner in (a, b) if runner.failure]
    reason = failures[0] if failures else doubt.reason(interval, sides, rounds)
    decision = verdict(interval) if interval and not reason else Verdict.UNDECIDED
    kept = sorted(a.samples.keys() & b.samples.keys())
    return Comparison(
        interval,
        decision,
        reason,
        tuple(o for o in a.log if o.plan in (a.name, b.name)),
        tuple(a.samples[case] for case in kept),
        tuple(b.samples[case] for case in kept),
        a.build_seconds,
        b.build_seconds,
        a.warmup_seconds,
        b.warmup_seconds,
        doubt.warnings(a.name, sides[a.name], clock_mhz, clock.device.type),
        clock.overhead_seconds / min(float(np.median(side)) for side in sides.values()) if whole else None,
        clock_mhz,
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
