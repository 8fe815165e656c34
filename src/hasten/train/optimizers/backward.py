"""The optimiser's step fused into the backward pass: each gradient is used and freed as soon as it is there.

No more than a few gradients are then alive at once.  What needs all of them first, clipping by their common norm, can't
go with it; a step that was begun can't be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

Make = Callable[[list[tuple[str, torch.nn.Parameter]]], torch.optim.Optimizer]


class StepInBackward:
    """Steps on each parameter in ``named`` when its gradient has been accumulated, inside :meth:`armed` only.

    ``make`` builds one optimiser of one named parameter; all of them are ``optimizers``, with state and learning rate
    as ever.  ``clip_value``: the largest absolute value of a gradient.  A gradient that is not finite is not stepped on
    and makes ``norm`` so.
    """

    def __init__(self, named: Mapping[str, torch.nn.Parameter], make: Make, clip_value: float | None = None) -> None:
        self.optimizers = tuple(make([(name, parameter)]) for name, parameter in named.items())
        self.clip_value = clip_value
        self._armed = False
        self._squares: list[torch.Tensor] = []
        for parameter, optimizer in zip(named.values(), self.optimizers, strict=True):
            parameter.register_post_accumulate_grad_hook(self._hook(optimizer))  # type: ignore[no-untyped-call]

    @contextmanager
    def armed(self) -> Iterator[None]:
        """The backward pass of the last micro-batch runs in this."""
        self._squares, self._armed = [], True
        try:
            yield
        finally:
            self._armed = False

    @property
    def norm(self) -> torch.Tensor:
        """The norm of the last step's gradient, before clipping."""
        return torch.stack(self._squares).sum().sqrt()

    def _hook(self, optimizer: torch.optim.Optimizer) -> Callable[[torch.Tensor], None]:
        def step(parameter: torch.Tensor) -> None:
            gradient = parameter.grad
            if not self._armed or gradient is None:
                return
            square = torch.linalg.vector_norm(gradient, dtype=torch.float32).square()
            self._squares.append(square)
            if bool(torch.isfinite(square)):
                if self.clip_value is not None:
                    gradient.clamp_(-self.clip_value, self.clip_value)
                optimizer.step()
            parameter.grad = None

        return step
