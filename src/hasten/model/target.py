"""A live model: a network that is asked for clean samples, and the sampler that asks.

Here, and only here, a network's own conventions (what it predicts, how it wants to hear the time, how its input is
scaled) become the inner one: ``denoise(x_t, t)`` predicts the clean sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from hasten.diffusion.guidance import guided
from hasten.diffusion.prediction import Prediction, input_scale, to_sample
from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Table, run
from hasten.model.workload import Case

TORCH_PROPERTIES = frozenset({"torch_module", "float_weights", "float32", "trainable", "exportable", "deterministic"})


LAYERS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)


def layers(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The linear and convolution layers in ``module``, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, LAYERS)}


def weight_names(module: torch.nn.Module) -> list[str]:
    """The names of their weights."""
    return [f"{name}.weight".lstrip(".") for name in layers(module)]


class Network(Protocol):
    """``(x (n, *shape), time (n,), labels (n,) or None) -> output (n, *shape)``, float32 in and out."""

    def __call__(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor: ...


Call = Callable[[torch.nn.Module, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class TorchNetwork:
    """A module and how to call it; ``dtype`` is what its weights and input are in."""

    module: torch.nn.Module
    call: Call
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format

    def __call__(self, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """Ask the module in its own dtype and layout, answer in float32."""
        x = x.to(self.dtype)
        if x.dim() == 4:
            x = x.contiguous(memory_format=self.memory_format)
        return self.call(self.module, x, time, labels).float()


@dataclass(frozen=True)
class Facts:
    """What techniques and reports need to know of a model.

    ``shape`` of one sample; ``parameters`` counted; ``weight_bytes`` in memory; ``num_labels`` includes the null label;
    ``null_label`` stands for "no class"; ``kinds`` counts leaf modules by class name, ``upsamplers`` those that can be
    fused (:mod:`hasten.model.upsample`).
    """

    shape: tuple[int, ...]
    parameters: int
    weight_bytes: int
    device: str
    num_labels: int | None
    null_label: int | None
    kinds: tuple[tuple[str, int], ...]
    upsamplers: int = 0

    @property
    def convolutional(self) -> bool:
        """Whether the model has convolutions, for which memory layouts matter."""
        return any(name.startswith("Conv") for name, _ in self.kinds)


@dataclass
class Target:
    """The only mutable type: techniques replace its ``network`` and ``table`` and it is thrown away after use."""

    facts: Facts
    network: Network
    schedule: Schedule
    prediction: Prediction
    table: Table
    sigma_data: float = 0.5
    guidance: float = 1.0

    @property
    def module(self) -> torch.nn.Module | None:
        """The torch module that still does the work, or None once an engine has taken over."""
        return self.network.module if isinstance(self.network, TorchNetwork) else None

    def denoise(self, x: torch.Tensor, t: float, labels: torch.Tensor | None = None) -> torch.Tensor:
        """The clean-sample prediction (n, *shape) at ``x`` and inner ``t`` in (0, 1], guided if guidance is not 1."""
        if self.guidance == 1.0 or labels is None or self.facts.null_label is None:
            return self._clean(x, t, labels)
        null = torch.full_like(labels, self.facts.null_label)
        both = self._clean(torch.cat([x, x]), t, torch.cat([labels, null]))
        conditional, unconditional = both.chunk(2)
        result: torch.Tensor = guided(conditional, unconditional, self.guidance)
        return result

    def _clean(self, x: torch.Tensor, t: float, labels: torch.Tensor | None) -> torch.Tensor:
        alpha, sigma = self.schedule.alpha(t).item(), self.schedule.sigma(t).item()
        scale = float(input_scale(self.prediction, alpha, sigma, self.sigma_data))
        time = torch.full((len(x),), float(self.schedule.network_time(t)), dtype=torch.float32, device=x.device)
        output = self.network(x * scale if scale != 1.0 else x, time, labels)
        clean: torch.Tensor = to_sample(self.prediction, x, output, alpha, sigma, self.sigma_data)
        return clean

    @torch.inference_mode()
    def sample(self, case: Case) -> torch.Tensor:
        """Samples (n, *shape) float32 on the host, from the case's noise by the target's table."""
        there = case.to(self.facts.device)
        result: torch.Tensor = run(
            self.table,
            lambda x, t: self.denoise(x, t, there.labels),
            there.noise,
            lambda row: case.fresh(row).to(self.facts.device),
        )
        return result.float().cpu()

    @torch.inference_mode()
    def evaluate(self, case: Case) -> torch.Tensor:
        """One evaluation, in the middle of the table's times: the clean sample (n, *shape), on the device."""
        there, t = case.to(self.facts.device), float(self.table.times[self.table.evaluations // 2])
        return self.denoise(there.noise, t, there.labels)
