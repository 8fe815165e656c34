"""What INT8 does to a network's output, layer by layer and noise level by noise level.

One layer at a time has its weights rounded by output channel and its input by the range that it was seen to have; the
damage is the power of the change of the network's output over the power of the output.  Rounding errors of layers are
nearly independent, so their damages add up: which layers to leave in float follows from the map (as sensitivities do
for mixed precision in Dong et al. 2019, HAWQ, arXiv:1905.03696; by time steps, He et al. 2023, arXiv:2310.03270).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hasten.model.target import layers

LEVELS = ("early", "middle", "late")  # thirds of the sampling times, from noise to sample
WEIGHT_STEPS, INPUT_STEPS = 127, 255


@dataclass(frozen=True)
class Layer:
    """``damages`` at each of LEVELS, as shares of the output's power; ``multiplications`` for one sample."""

    name: str
    multiplications: int
    damages: tuple[float, ...]


@torch.inference_mode()
def damage(
    module: torch.nn.Module,
    evaluate: Callable[[], torch.Tensor],
    say: Callable[[str], None] = lambda _: None,
) -> list[Layer]:
    """Each convolution and linear layer of ``module`` that ``evaluate`` reaches, in the order of the module.

    ``evaluate()`` asks the network about equally many states of each of LEVELS, one level after the other, and returns
    the outputs (n, ...).
    """
    named = layers(module)
    seen: dict[str, tuple[float, float, int]] = {}
    hooks = [part.register_forward_hook(_observer(seen, name)) for name, part in named.items()]
    try:
        whole = evaluate()
    finally:
        for hook in hooks:
            hook.remove()
    rows = []
    for number, (name, (low, high, multiplications)) in enumerate(seen.items(), 1):
        say(f"layer {number} of {len(seen)}")
        part = named[name]
        weight = module.get_parameter(f"{name}.weight".lstrip("."))
        part.weight = torch.nn.Parameter(rounded_weight(weight), requires_grad=False)
        hook = part.register_forward_pre_hook(_rounder(low, high))
        try:
            changed = evaluate()
        finally:
            hook.remove()
            part.weight = weight
        rows.append(Layer(name, multiplications, change(whole, changed)))
    return rows


def change(whole: torch.Tensor, changed: torch.Tensor) -> tuple[float, ...]:
    """The power of the change over that of the output, both (n, ...), at each of LEVELS, n / 3 states after another."""
    parts = zip(whole.chunk(len(LEVELS)), changed.chunk(len(LEVELS)), strict=True)
    return tuple(float((b - a).square().mean()) / max(float(a.square().mean()), 1e-30) for a, b in parts)


def worth_keeping(layers: Sequence[Layer], least_db: float) -> list[str]:
    """The layers to leave in float so that the output of the rest in INT8 is ``least_db`` from the network's own at
    every level: always the one that does most damage for its multiplications at the level that is worst off."""
    left = list(layers)
    kept: list[str] = []
    while left:
        totals = [sum(layer.damages[level] for layer in left) for level in range(len(LEVELS))]
        worst = max(range(len(LEVELS)), key=lambda level: totals[level])
        if totals[worst] <= 10 ** (-least_db / 10):
            break
        most = max(left, key=lambda layer: layer.damages[worst] / layer.multiplications)
        left.remove(most)
        kept.append(most.name)
    return kept


def decibel(share: float) -> float:
    """A damage as the ratio of signal to noise; 150 for none."""
    return 150.0 if share <= 1e-15 else -10.0 * math.log10(share)


def rounded_weight(weight: torch.Tensor) -> torch.Tensor:
    """``weight`` (out, ...) on 255 steps, symmetric, by output channel."""
    step = weight.abs().flatten(1).amax(1).clamp_min(1e-12) / WEIGHT_STEPS
    step = step.reshape(-1, *[1] * (weight.dim() - 1))
    result: torch.Tensor = (weight / step).round().clamp(-WEIGHT_STEPS, WEIGHT_STEPS) * step
    return result


def _observer(seen: dict[str, tuple[float, float, int]], name: str) -> Callable[..., None]:
    def hook(part: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        low, high = float(inputs[0].min()), float(inputs[0].max())
        each = int(output[0].numel()) * int(part.weight[0].numel())  # type: ignore[index]
        before = seen.get(name, (0.0, 0.0, 0))
        seen[name] = (min(low, before[0]), max(high, before[1]), before[2] + each)

    return hook


def _rounder(low: float, high: float) -> Callable[..., tuple[torch.Tensor, ...]]:
    step = max((high - low) / INPUT_STEPS, 1e-12)
    zero = round(-low / step)

    def hook(_part: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        found = (torch.round(inputs[0] / step) + zero).clamp(0, INPUT_STEPS)
        return ((found - zero) * step, *inputs[1:])

    return hook
