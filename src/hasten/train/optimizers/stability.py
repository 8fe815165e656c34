"""What keeps a run from breaking: gradients are clipped, what is not finite is named, leaps of the loss are seen.

Adaptive clipping is ZClip (Kumar et al. 2025, arXiv:2504.02507, algorithm 1): the gradient norm ``g`` has a running
mean ``m`` and standard deviation ``d``; where ``z = (g - m) / d`` exceeds the limit ``z0``, the norm is brought down to
``m + d z0^2 / z``, and that enters the statistics instead of ``g``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

Numbers = dict[str, float | int | None]


@dataclass
class Running:
    """A running mean and variance with memory ``1 / (1 - keep)``; those of all numbers, while they are fewer."""

    keep: float
    mean: float = 0.0
    variance: float = 0.0
    count: int = 0

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self.variance)

    def update_(self, value: float) -> None:
        """Take one more finite number."""
        self.count += 1
        share = max(1.0 - self.keep, 1.0 / self.count)
        difference = value - self.mean
        self.mean += share * difference
        self.variance = (1.0 - share) * (self.variance + share * difference * difference)

    def state(self) -> Numbers:
        """What changes, as plain numbers."""
        return {"mean": self.mean, "variance": self.variance, "count": self.count}

    def restore_(self, values: Mapping[str, float | int | None]) -> None:
        """The inverse of :meth:`state`."""
        self.mean, self.variance = float(values["mean"] or 0.0), float(values["variance"] or 0.0)
        self.count = int(values["count"] or 0)


@dataclass(frozen=True)
class Clipped:
    """The gradient's ``norm`` before clipping, maybe not finite, and the ``scale`` in (0, 1] that it was brought to."""

    norm: float
    scale: float


@dataclass
class Clip:
    """Clips gradients by ``norm``, by ``zscore`` (both by scaling), then by ``value``; None means off.

    The z-score acts after ``warmup_steps`` finite norms.
    """

    norm: float | None = None
    value: float | None = None
    zscore: float | None = None
    warmup_steps: int = 25
    running: Running = field(default_factory=lambda: Running(keep=0.97))

    @torch.no_grad()
    def clip_(self, parameters: Iterable[torch.nn.Parameter]) -> Clipped:
        """Clip the gradients of ``parameters`` in place, waiting for the device once.

        Gradients whose norm is not finite are left as they are, and so are the statistics: the step has to be skipped.
        """
        parameters = [parameter for parameter in parameters if parameter.grad is not None]
        total = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = total.item()
        if not math.isfinite(norm):
            return Clipped(norm, 1.0)
        limit = math.inf if self.norm is None else self.norm
        if self.zscore is not None:
            limit = min(limit, self._adaptive(norm, self.zscore))
            self.running.update_(min(norm, limit))
        scale = min(limit / (norm + 1e-6), 1.0)  # torch's own epsilon
        if scale < 1.0:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, total)
        if self.value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self.value)
        return Clipped(norm, scale)

    def _adaptive(self, norm: float, most: float) -> float:
        """The largest norm that the statistics let pass."""
        deviation = self.running.deviation
        if self.running.count < self.warmup_steps or deviation == 0.0:
            return math.inf
        z = (norm - self.running.mean) / deviation
        return self.running.mean + deviation * most * most / z if z > most else math.inf

    def state(self) -> Numbers:
        """What changes, as plain numbers."""
        return self.running.state()

    def restore_(self, values: Mapping[str, float | int | None]) -> None:
        """The inverse of :meth:`state`."""
        self.running.restore_(values)


def nonfinite(gradients: Iterable[tuple[str, torch.Tensor | None]], loss: torch.Tensor) -> str | None:
    """The first of ``loss`` and the named ``gradients`` that is not finite, with how much of it; None when all are.

    Waits for the device at each tensor: for use once something is known to be wrong.
    """
    for name, tensor in (("the loss", loss), *((f"the gradient of {name}", tensor) for name, tensor in gradients)):
        if tensor is not None:
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                return f"{name} ({bad} of {tensor.numel()} not finite)"
    return None


@dataclass
class Spike:
    """Tells a leap of the training loss, or a rise that stays, from its noise: a cumulative sum of the z-scores of its
    logarithm, ``c = max(0, c + z - 1)`` (Page 1954, "Continuous inspection schemes"), that exceeds ``most`` and begins
    anew.  A deviation counts as 1 % at least.

    So one loss over eight running standard deviations above the running mean is seen at once, four of three in a row
    as well.  Counted after ``warmup_steps`` losses.  What is high enters the statistics only up to two deviations, so
    that one leap does not hide the next, and a lasting higher level is accepted in the end.  The memory is 20 losses:
    one of 100 holds the fall at a run's start.  LOG.md has what each setting saw and how often it was wrong.
    """

    most: float = 7.0
    warmup_steps: int = 100
    risen: float = 0.0
    running: Running = field(default_factory=lambda: Running(keep=0.95))

    def seen_(self, loss: float) -> bool:
        """Take the newest loss; whether it has leapt.  One that is not finite has, and enters nothing."""
        if not math.isfinite(loss):
            return True
        value, deviation = math.log(max(loss, 1e-30)), max(self.running.deviation, 0.01)
        if self.running.count >= self.warmup_steps:
            self.risen = max(0.0, self.risen + (value - self.running.mean) / deviation - 1.0)
            value = min(value, self.running.mean + 2.0 * deviation)
        self.running.update_(value)
        leap = self.risen > self.most
        self.risen = 0.0 if leap else self.risen
        return leap

    def state(self) -> Numbers:
        """What changes, as plain numbers."""
        return {**self.running.state(), "risen": self.risen}

    def restore_(self, values: Mapping[str, float | int | None]) -> None:
        """The inverse of :meth:`state`."""
        self.running.restore_(values)
        self.risen = float(values["risen"] or 0.0)
