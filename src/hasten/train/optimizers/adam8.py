"""AdamW whose two moments are kept in 8 bits: a quarter of the bytes, in blocks of 256 with a scale each.

A number of a block, divided by the block's largest, becomes the nearest of 256 codes that lie dense near 0: seven
decades, each with twice as many codes as the one below it (dynamic tree quantisation, Dettmers et al. 2022,
arXiv:2110.02861, section 1.2).  Parameters of fewer than 4096 numbers keep float32 moments, as theirs do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

BLOCK = 256
SMALLEST_QUANTIZED = 4096
DECADES = 7


def codes(signed: bool) -> torch.Tensor:
    """The 256 numbers in [-1, 1], or [0, 1], that 8 bits stand for; increasing, float32."""
    found = [0.0, 1.0]
    for decade in range(DECADES):
        count = 2**decade if signed else 2 ** (decade + 1)
        edges = torch.linspace(0.1, 1.0, count + 1)
        found += ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade + 1 - DECADES)).tolist()
    if signed:
        found += [-each for each in found if 0.0 < each < 1.0]
    return torch.tensor(sorted(found))


SIGNED, UNSIGNED = codes(signed=True), codes(signed=False)


def quantized(values: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``values`` (any shape, float32) as codes (blocks, 256) uint8 and scales (blocks, 1) float32."""
    flat = torch.nn.functional.pad(values.reshape(-1), (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale = flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    table = table.to(values.device)
    return torch.bucketize(flat / scale, (table[1:] + table[:-1]) / 2).to(torch.uint8), scale


def restored(found: torch.Tensor, scale: torch.Tensor, like: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`quantized`, but for rounding, in the shape of ``like``."""
    return (table.to(found.device)[found.int()] * scale).reshape(-1)[: like.numel()].view(like.shape)


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) on float32 parameters, one at a time.

    State of a large parameter: ``step``, and codes and scales of both moments; of a small one as AdamW's.
    """

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state, (first, second), rate = self.state[parameter], group["betas"], float(group["lr"])
        small = parameter.numel() < SMALLEST_QUANTIZED
        if "step" not in state:
            state["step"] = torch.tensor(0.0)
            if small:
                state |= {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        state["step"] += 1
        if small:
            mean, square = state["exp_avg"], state["exp_avg_sq"]
        elif state["step"] == 1:
            mean, square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        else:
            mean = restored(state["exp_avg_codes"], state["exp_avg_scale"], parameter, SIGNED)
            square = restored(state["exp_avg_sq_codes"], state["exp_avg_sq_scale"], parameter, UNSIGNED)
        mean.lerp_(gradient, 1.0 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        if not small:
            state["exp_avg_codes"], state["exp_avg_scale"] = quantized(mean, SIGNED)
            state["exp_avg_sq_codes"], state["exp_avg_sq_scale"] = quantized(square, UNSIGNED)
        step = float(state["step"])
        root = (square.sqrt() if small else square.sqrt_()).div_((1.0 - second**step) ** 0.5).add_(group["eps"])
        parameter.mul_(1.0 - rate * group["weight_decay"])
        parameter.addcdiv_(mean, root, value=-rate / (1.0 - first**step))
