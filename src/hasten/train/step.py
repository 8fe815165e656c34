"""One training step of any source, in its three parts, so that it can be timed and profiled.

The loss is the loop's (:mod:`hasten.train.losses.objective`), then AdamW.  Data, checkpoints and averages are the
loop's own affair and no part of it.
"""

from __future__ import annotations

import torch

from hasten.data.array import Data
from hasten.data.loader import batch_indices
from hasten.diffusion.levels import uniform
from hasten.errors import BadInput
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Case
from hasten.seeds import Purpose, seed_of
from hasten.train.losses.objective import Objective

LEARNING_RATE = 1e-5


class TrainStep:
    """A step of ``target``'s network, whose weights it changes; the target is a fresh one, built for this.

    Each step's batch is drawn from the training part of ``data`` by the case's seed, with labels where the network
    takes them.  Raises BadInput where no torch module does the work, or one whose weights can't be trained.
    """

    def __init__(self, target: Target, data: Data) -> None:
        if not isinstance(target.network, TorchNetwork) or target.network.dtype != torch.float32:
            raise BadInput("a training step needs a torch module with float32 weights; drop runtime and precision")
        self.target, self.network = target, target.network
        self.data, self.ids = data, data.ids(held_out=False)
        self.module = target.network.module.train().requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=LEARNING_RATE, fused=True)

    def forward(self, case: Case, chosen: torch.Tensor | None = None) -> torch.Tensor:
        """The errors (n,) of a batch as large as the case, with its noise; ``chosen`` (n,): which training data."""
        target, n = self.target, len(case.noise)
        rng = torch.Generator().manual_seed(case.seed)
        if chosen is None:
            chosen = torch.randint(len(self.ids), (n,), generator=rng)
        places = ((torch.rand((), generator=rng) + torch.arange(n)) / n).double().numpy()
        clean, labels = (torch.from_numpy(part).to(target.facts.device) for part in self.data.take(self.ids[chosen]))
        objective = Objective(target.schedule, target.prediction, target.sigma_data)
        examples = objective.at(
            clean,
            None if target.facts.num_labels is None else labels,
            uniform(target.schedule, places),
            case.noise,
        )
        return examples.errors(self.network(examples.x, examples.time, examples.labels))

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
        for number in range(len(self.step.ids) // n):
            seed = seed_of(Purpose.BATCH, case.seed, number)
            rng = torch.Generator().manual_seed(seed)
            noise = torch.randn(case.noise.shape, generator=rng)
            chosen = torch.from_numpy(batch_indices(number, n, len(self.step.ids), case.seed))
            means.append(self.step.sample(Case(number, seed, noise), chosen).mean())
        return torch.stack(means)
