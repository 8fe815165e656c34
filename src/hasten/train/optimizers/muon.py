"""Muon: steps along the orthogonalised momentum of each matrix, AdamW for what is no matrix, in one optimiser.

For a weight ``W`` (out, in) with gradient ``G``::

    M <- m M + (1 - m) G,   U = orthogonal((1 - m) G + m M),   W <- (1 - lr wd) W - lr 0.2 sqrt(max(out, in)) U

``orthogonal`` brings all singular values near 1 by five quintic Newton-Schulz iterations.  The scale gives a step the
root mean square of AdamW's, so that AdamW's learning rate carries over.  Convolution kernels are matrices of shape
(out, in * kh * kw).

References: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025,
arXiv:2502.16982, eq. 4 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # the steepest slope at 0 that still ends near 1, by Jordan et al.
ITERATIONS = 5
SMALLEST_NORM = 1e-7


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """``matrices`` (n, out, in), floating point, with singular values brought to about 0.7 to 1.2; zeros stay zeros.

    Computed in bf16 on CUDA, in float32 elsewhere, where bf16 may be emulated; returned in that dtype.
    """
    a, b, c = COEFFICIENTS
    x = matrices.to(torch.bfloat16 if matrices.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=SMALLEST_NORM)[:, None, None]
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """AdamW, but for the ``matrices`` (each of two dimensions or more), which get Muon's step.

    Two groups at most, told apart by ``group["matrices"]``; ``group["lr"]`` is one scale for both.  State: AdamW's own,
    and ``momentum_buffer`` for a matrix.  ``momentum`` lies in [0, 1).
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        rest: list[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        groups: list[dict[str, Any]] = [{"params": matrices, "matrices": True}, {"params": rest, "matrices": False}]
        groups = [group for group in groups if group["params"]]
        super().__init__(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            group["momentum"] = momentum
        self._step_supports_amp_scaling = False  # torch's scaler must unscale and skip: Muon's half would do neither

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        for group in groups:
            if group["matrices"]:
                self._step_matrices_(group)
        try:
            self.param_groups = [group for group in groups if not group["matrices"]]
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices_(self, group: dict[str, Any]) -> None:
        """Matrices of one shape are orthogonalised together."""
        alike: dict[tuple[Any, ...], list[torch.Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shape = (len(parameter), parameter.numel() // len(parameter))
                alike.setdefault((*shape, parameter.device), []).append(parameter)
        rate, momentum = float(group["lr"]), group["momentum"]
        for (rows, columns, _), parameters in alike.items():
            gradients = [p.grad for p in parameters if p.grad is not None]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(gradient)
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            torch._foreach_lerp_(buffers, gradients, 1.0 - momentum)
            ahead = torch._foreach_lerp(gradients, buffers, momentum)
            steps = orthogonal(torch.stack([each.flatten(1) for each in ahead]))
            scaled = [step.reshape(p.shape).to(p.dtype) for step, p in zip(steps, parameters, strict=True)]
            torch._foreach_mul_(parameters, 1.0 - rate * group["weight_decay"])
            torch._foreach_add_(parameters, scaled, alpha=-rate * 0.2 * math.sqrt(max(rows, columns)))
