"""Paired, interleaved timing: whether a candidate is faster than a baseline, by how much, and how sure that is.

Rounds are outermost.  In each, every plan samples the same case, so from the same noise, in an order shuffled anew; a
machine that slows down or is disturbed thus hits all of them alike.  The figure is the median over rounds of
candidate/baseline (:mod:`hasten.measure.stats`).  Building and warming up are timed apart and are no part of it.

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

from hasten.measure.clock import Clock, settled
from hasten.measure.stats import FEWEST_ROUNDS, Interval, Verdict, median_ratio, verdict

NOISY = 0.2  # a baseline that varies by more than this must be beaten by more than it varies


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

    A failure while building or warming up has round -1.
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
    that failed.
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
    failure: str | None = None

    def fail(self, case: int, round_: int, images: int, failure: str) -> None:
        self.failure, self.sampler = failure, None
        self.samples.pop(case, None)
        self.log.append(Observation(self.name, case, round_, None, images, failure=failure))

    def seconds(self) -> dict[int, float]:
        """By round."""
        return {o.round: o.seconds for o in self.log if o.plan == self.name and o.seconds is not None}


def compare(
    build_a: Builder,
    build_b: Builder,
    workload: Workload,
    rounds: int = 15,
    warmup: int = 1,
    seed: int = 0,
    deadline: float | None = None,
    stop: Callable[[], bool] | None = None,
    on_round: Callable[[int, int], None] | None = None,
    clock: Clock | None = None,
) -> Comparison:
    """:func:`compare_many` of two: ``build_a`` makes the plan ``"baseline"``, ``build_b`` the ``"candidate"``."""
    builders = {"baseline": build_a, "candidate": build_b}
    return compare_many(builders, "baseline", workload, rounds, warmup, seed, deadline, stop, on_round, clock)[
        "candidate"
    ]


def noise_floor(
    build_a: Builder,
    workload: Workload,
    rounds: int = FEWEST_ROUNDS,
    warmup: int = 1,
    seed: int = 0,
    deadline: float | None = None,
    stop: Callable[[], bool] | None = None,
    on_round: Callable[[int, int], None] | None = None,
    clock: Clock | None = None,
) -> Comparison:
    """An A/A run: the baseline, built twice, against itself.  How far its interval reaches is what noise alone does."""
    builders = {"baseline": build_a, "baseline again": build_a}
    result = compare_many(builders, "baseline", workload, rounds, warmup, seed, deadline, stop, on_round, clock)
    return result["baseline again"]


def compare_many(
    builders: Mapping[str, Builder],
    reference: str,
    workload: Workload,
    rounds: int = 15,
    warmup: int = 1,
    seed: int = 0,
    deadline: float | None = None,
    stop: Callable[[], bool] | None = None,
    on_round: Callable[[int, int], None] | None = None,
    clock: Clock | None = None,
) -> dict[str, Comparison]:
    """Measure all plans in the same rounds, each against the plan ``reference``.

    Round r takes case r modulo their number; ``warmup`` samples of the first case come before.  ``on_round(done,
    rounds)`` is called after each.  A plan that fails to build or to sample, or whose samples aren't finite or have
    another shape than the reference's, drops out with its reason and the others go on; without the reference all ends.
    No round is begun after ``deadline`` (in seconds of ``time.perf_counter()``), nor one that would end after it if it
    took as long as the longest so far, nor once ``stop()`` says so.  Raises ValueError for a workload without cases or
    an unknown reference.
    """
    cases = list(workload.cases)
    if not cases or reference not in builders:
        raise ValueError("a comparison needs a case and a reference that is among its builders")
    clock = clock or Clock("cuda" if torch.cuda.is_available() else "cpu")
    images, rng, longest = workload.images_per_case, random.Random(seed), 0.0  # noqa: S311 (an order, no secret)
    log: list[Observation] = []
    runners = {name: _Runner(name, log) for name in builders}
    for name, runner in runners.items():
        _prepare(runner, builders[name], cases[0], warmup, images, clock)
    with settled():
        for round_ in range(rounds):
            alive = [runner for runner in runners.values() if runner.failure is None]
            late = (deadline is not None and clock.now() + longest > deadline) or (stop is not None and stop())
            if runners[reference].failure or len(alive) < 2 or late:
                break
            begun, case = clock.now(), round_ % len(cases)
            rng.shuffle(alive)
            for runner in alive:
                _sample(runner, cases[case], case, round_, images, clock)
            _check_samples(runners[reference], alive, case, round_, images)
            longest = max(longest, clock.now() - begun)
            if on_round:
                on_round(round_ + 1, rounds)
    others = [name for name in builders if name != reference]
    return {name: _comparison(runners[reference], runners[name], rounds) for name in others}


def _prepare(runner: _Runner, builder: Builder, case: Any, warmup: int, images: int, clock: Clock) -> None:
    begun = clock.now()
    try:
        sampler = builder()
        runner.build_seconds = clock.now() - begun
        begun = clock.now()
        for _ in range(warmup):
            sampler.sample(case)
        runner.warmup_seconds = clock.now() - begun
        runner.sampler = sampler
    except Exception as error:
        runner.fail(0, -1, images, _one_line(error))


def _sample(runner: _Runner, case: Any, index: int, round_: int, images: int, clock: Clock) -> None:
    sampler = runner.sampler
    assert sampler is not None
    try:
        seconds, sample = clock.time(lambda: sampler.sample(case))
        if index not in runner.samples:
            runner.samples[index] = sample.detach().cpu()
    except Exception as error:
        runner.fail(index, round_, images, _one_line(error))
    else:
        runner.log.append(Observation(runner.name, index, round_, seconds, images))


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


def _comparison(a: _Runner, b: _Runner, rounds: int) -> Comparison:
    seconds_a, seconds_b = a.seconds(), b.seconds()
    whole = sorted(seconds_a.keys() & seconds_b.keys())
    baseline, candidate = [seconds_a[r] for r in whole], [seconds_b[r] for r in whole]
    interval = median_ratio(baseline, candidate) if whole else None
    reason = _why_undecided(a, b, interval, baseline, rounds)
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
    )


def _why_undecided(a: _Runner, b: _Runner, interval: Interval | None, baseline: list[float], rounds: int) -> str:
    for runner in (a, b):
        if runner.failure:
            return f"{runner.name} failed: {runner.failure}"
    if interval is None or interval.n < FEWEST_ROUNDS:
        done = interval.n if interval else 0
        late = f", the time was up before the other {rounds - done}" if done < rounds else ""
        return f"too few rounds: {done}, at least {FEWEST_ROUNDS} are needed{late}"
    low, middle, high = np.quantile(baseline, [0.1, 0.5, 0.9]).tolist()
    varied = (high - low) / middle
    holds_one = interval.low <= 1.0 <= interval.high
    nearest = 0.0 if holds_one else min(abs(math.log(interval.low)), abs(math.log(interval.high)))
    if varied > NOISY and nearest < math.log1p(varied):
        return f"noisy machine: {a.name} varied by {100 * varied:.0f} % over rounds"
    if holds_one:
        return f"the interval {interval.low:.3f} to {interval.high:.3f} holds 1"
    return ""


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
