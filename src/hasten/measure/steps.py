"""Where a sample's time goes, evaluation by evaluation: the first, the steady state, the loop around the network."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch

from hasten.measure.clock import Clock, settled
from hasten.measure.profile import elapsed, mark_of


@dataclass(frozen=True)
class Steps:
    """One sample: ``seconds`` in all, of each network evaluation in turn, and outside of the network.

    ``plain_seconds``: the same sample without marks.
    """

    seconds: float
    network_seconds: tuple[float, ...]
    outside_seconds: float
    plain_seconds: float

    @property
    def first_seconds(self) -> float:
        """The first evaluation's."""
        return self.network_seconds[0]

    @property
    def steady_seconds(self) -> float:
        """The median of the other evaluations; of a single one, its own."""
        return median(self.network_seconds[1:] or self.network_seconds)

    @property
    def overhead(self) -> float:
        """With marks / without."""
        return self.seconds / self.plain_seconds


class Steppable(Protocol):
    """A sampler that asks its ``network``, whatever engine that is (:class:`hasten.model.target.Target`)."""

    network: Any

    def sample(self, case: Any) -> torch.Tensor: ...


def profile_steps(target: Steppable, case: Any, clock: Clock | None = None) -> Steps:
    """Seconds within the network, evaluation by evaluation, and outside it, while ``target`` makes one sample.

    No sample before warms up, so that the first step shows what a sample does once; the sample without marks comes
    after.  The target is left as it was.
    """
    clock = clock or Clock()
    mark, marks, network = mark_of(clock), [], target.network

    def marked(*inputs: Any) -> Any:
        start = mark()
        output = network(*inputs)
        marks.append((start, mark()))
        return output

    target.network = marked
    try:
        with settled():
            seconds, _ = clock.time(lambda: target.sample(case))
    finally:
        target.network = network
    with settled():
        plain, _ = clock.time(lambda: target.sample(case))
    inside = tuple(elapsed(start, end) for start, end in marks)
    return Steps(seconds, inside, seconds - sum(inside), plain)
