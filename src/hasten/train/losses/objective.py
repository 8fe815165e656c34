"""What a network learns from a batch: noised samples, the answers that are wanted, and the weight of each error.

The loss is the mean over the batch of ``weight * mean((output - wanted)^2)`` at ``x_t = alpha_t x_0 + sigma_t eps``,
with the places that decide the noise levels stratified over the batch (Kingma et al. 2021, arXiv:2107.00630, I.1).
Everything that is drawn comes from one generator, so that any batch can be made again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import starmap

import numpy as np
import torch

from hasten.diffusion.levels import LEVELS
from hasten.diffusion.prediction import Prediction, from_sample, input_scale
from hasten.diffusion.schedule import Array, Schedule

Ask = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """A batch of n, float32 and on the device.

    The network's input ``x`` (n, *shape), ``time`` (n,), ``labels`` (n,) or None; the output that is ``wanted``
    (n, *shape), the ``weights`` (n,) of the errors, and ``s`` (n,) = sigma / alpha.  ``taught`` (n, *shape): what a
    teacher answers, where that is known.
    """

    x: torch.Tensor
    time: torch.Tensor
    labels: torch.Tensor | None
    wanted: torch.Tensor
    weights: torch.Tensor
    s: torch.Tensor
    taught: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def parts(self, count: int) -> list[Examples]:
        """``count`` micro-batches of one size."""
        tensors = (self.x, self.time, self.labels, self.wanted, self.weights, self.s, self.taught)
        chunks = ([None] * count if each is None else each.chunk(count) for each in tensors)
        return list(starmap(Examples, zip(*chunks, strict=True)))

    def errors(self, output: torch.Tensor) -> torch.Tensor:
        """The weighted mean square error (n,) of each answer in ``output`` (n, *shape), in float32 whatever that is."""
        error: torch.Tensor = (output.float() - self.wanted).square().flatten(1).mean(1) * self.weights
        return error


@dataclass(frozen=True)
class Objective:
    """How examples are made.

    ``weigh(prediction, s)``: one of WEIGHTINGS with its own parameters, none without; ``levels``: one of LEVELS.
    ``null_label`` takes the place of a label with probability ``label_dropout``.
    """

    schedule: Schedule
    prediction: Prediction
    sigma_data: float = 0.5
    weigh: Callable[[Prediction, Array], Array] | None = None
    levels: str = "uniform"
    levels_mean: float | None = None
    levels_std: float | None = None
    label_dropout: float = 0.0
    null_label: int | None = None

    def draw(self, clean: torch.Tensor, labels: torch.Tensor | None, rng: torch.Generator) -> Examples:
        """Examples of ``clean`` (n, *shape) at levels and with noise drawn from ``rng`` (on the host)."""
        n = len(clean)
        if labels is not None and self.null_label is not None:
            dropped = torch.rand(n, generator=rng) < self.label_dropout
            labels = torch.where(dropped.to(labels.device), self.null_label, labels)
        places = ((torch.rand((), generator=rng) + torch.arange(n) / n) % 1.0).double().numpy()
        t = LEVELS[self.levels](self.schedule, places, self.levels_mean, self.levels_std)
        return self.at(clean, labels, t, torch.randn(clean.shape, generator=rng))

    def at(self, clean: torch.Tensor, labels: torch.Tensor | None, t: Array, noise: torch.Tensor) -> Examples:
        """Examples of ``clean`` (n, *shape) at the inner times ``t`` (n,) with this ``noise`` (n, *shape)."""

        def tensor(values: Array) -> torch.Tensor:
            return torch.from_numpy(np.asarray(values)).float().to(clean.device)

        def column(values: Array) -> torch.Tensor:
            return tensor(values).reshape(-1, *[1] * (clean.dim() - 1))

        s = self.schedule.s(t)
        alpha, sigma = column(self.schedule.alpha(t)), column(self.schedule.sigma(t))
        noised = alpha * clean + sigma * noise.to(clean.device)
        wanted = from_sample(self.prediction, noised, clean, alpha, sigma, self.sigma_data)
        scale = input_scale(self.prediction, alpha, sigma, self.sigma_data)
        weights = np.ones_like(s) if self.weigh is None else self.weigh(self.prediction, s)
        return Examples(
            noised if isinstance(scale, float) else noised * scale,
            tensor(self.schedule.network_time(t)),
            labels,
            wanted,
            tensor(weights),
            tensor(s),
        )
