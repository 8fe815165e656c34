"""One training step of any source, in its three parts, so that it can be timed and profiled.

The loss is the loop's: the mean square error of the network's own prediction at ``x_t = alpha_t x_0 + sigma_t eps``,
with ``t`` stratified over the batch (Kingma et al. 2021, arXiv:2107.00630, I.1), then AdamW.  Data, checkpoints and
averages are the loop's own affair and no part of it.
"""

from __future__ import annotations

import torch

from hasten.data.array import Data
from hasten.data.loader import batch_indices
from hasten.diffusion.prediction import from_sample, input_scale
from hasten.errors import BadInput
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Case

LEARNING_RATE = 1e-5


class TrainStep:
    """A step of ``target``'s network, whose weights it changes; the target is a fresh one, built for this.

    ``clean`` (n, *shape) float32, pictures in [-1, 1], and ``labels`` (n,) int64 or None: where each step's batch is
    drawn from, by the case's seed.  Raises BadInput where no torch module does the work, or one whose weights can't be
    trained.
    """

    def __init__(self, target: Target, clean: torch.Tensor, labels: torch.Tensor | None = None) -> None:
        if not isinstance(target.network, TorchNetwork) or target.network.dtype != torch.float32:
            raise BadInput("a training step needs a torch module with float32 weights; drop runtime and precision")
        self.target, self.network = target, target.network
        self.clean, self.labels = clean, labels
        self.module = target.network.module.train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE, fused=True)

    @classmethod
    def on(cls, target: Target, data: Data) -> TrainStep:
        """A step on the data's training part; its labels only where the network takes them."""
        clean, labels = (torch.from_numpy(part) for part in data.part(held_out=False))
        return cls(target, clean, None if target.facts.num_labels is None else labels)

    def forward(self, case: Case, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """The errors (n,) of a batch as large as the case, with its noise; ``chosen`` (n,): which data."""
        target, device, n = self.target, self.target.facts.device, len(case.noise)
        rng = torch.Generator().manual_seed(case.seed)
        if chosen is None:
            chosen = torch.randint(len(self.clean), (n,), generator=rng)
        t = ((torch.rand((), generator=rng) + torch.arange(n)) / n).double().clamp(1e-4, 1.0).numpy()
        clean, noise = self.clean[chosen].to(device), case.noise.to(device)
        alpha, sigma, time = (
            torch.from_numpy(f(t)).float().to(device)
            for f in (target.schedule.alpha, target.schedule.sigma, target.schedule.network_time)
        )
        alpha, sigma = (part.reshape(-1, *[1] * (clean.dim() - 1)) for part in (alpha, sigma))
        noised = alpha * clean + sigma * noise
        wanted = from_sample(target.prediction, noised, clean, alpha, sigma, target.sigma_data)
        labels = case.labels if self.labels is None else self.labels[chosen]
        labels = labels.to(device) if labels is not None else None
        scaled = noised * input_scale(target.prediction, alpha, sigma, target.sigma_data)
        predicted = self.network(scaled, time, labels)
        errors: torch.Tensor = (predicted - wanted).square().flatten(1).mean(1)
        return errors

    def backward(self, errors: torch.Tensor) -> None:
        """The gradients of the mean of ``errors``."""
        self.optimizer.zero_grad(set_to_none=True)
        errors.mean().backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """AdamW's step, gradients clipped to norm 1."""
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()

    def sample(self, case: Case, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """A whole step; the errors (n,) that it learnt from, on the host."""
        errors = self.forward(case, chosen)
        self.backward(errors)
        self.update()
        return errors.detach().float().cpu()


class Epoch:
    """All the data once, in batches as large as the case, shuffled by its seed; a last partial batch is dropped."""

    def __init__(self, step: TrainStep) -> None:
        self.step = step

    def sample(self, case: Case) -> torch.Tensor:
        """The mean errors (steps,) of the epoch's steps."""
        n = len(case.noise)
        means = []
        for number in range(len(self.step.clean) // n):
            rng = torch.Generator().manual_seed(case.seed * 1_000_003 + number)
            noise = torch.randn(case.noise.shape, generator=rng)
            chosen = torch.from_numpy(batch_indices(number, n, len(self.step.clean), case.seed))
            means.append(self.step.sample(Case(number, case.seed * 1_000_003 + number, noise), chosen).mean())
        return torch.stack(means)
