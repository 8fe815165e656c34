"""INT8 products inside PyTorch on a CPU, the ranges of inputs found as it runs: nothing to calibrate.

Weights are rounded once, symmetric, by output channel; each input by its own extremes (Zafrir et al. 2019,
arXiv:1910.06188, 2), in seven bits where the processor's INT8 sums would overflow with eight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hasten.errors import BadInput
from hasten.model.target import Facts, Target, TorchNetwork, layers
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage

WEIGHT_STEPS = 127


@dataclass(frozen=True)
class Dynamic:
    """``share``: of all multiplications, how much the quantised layers do, the costliest first, over 0 to 1.

    The layers that are asked first and last stay float: their rounding is noise in the sample.
    """

    name: ClassVar[str] = "dynamic"
    effects: ClassVar[Effects] = Effects(
        Stage.QUANTIZE,
        Fidelity.LOSSY,
        scope="convolutions, linear layers",
        requires=frozenset({"torch_module", "float32"}),
        breaks=frozenset({"torch_module", "float32", "float_weights", "exportable", "trainable"}),
        claims=frozenset({"weight_format", "graph"}),
    )

    share: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"dynamic.share = {self.share} is out of range; over 0, up to 1")

    @property
    def label(self) -> str:
        """ "int8 dynamic"."""
        return "int8 dynamic"

    def refuse(self, facts: Facts) -> str | None:
        """Such operators are there for CPUs alone."""
        if facts.device != "cpu":
            return "torch's INT8 operators with dynamic ranges are for CPUs; drop dynamic"
        if not any(name.startswith(("Conv", "Linear")) for name, _ in facts.kinds):
            return "there is no convolution or linear layer to quantise; drop dynamic"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Dynamic, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Put INT8 layers in the place of the costliest ones; the module is the target's own."""
        network = target.network
        assert isinstance(network, TorchNetwork)
        named = layers(network.module)
        for name in costliest(network, target.facts, self.share):
            parent, _, last = name.rpartition(".")
            setattr(network.module.get_submodule(parent), last, quantized(named[name]))


def costliest(network: TorchNetwork, facts: Facts, share: float) -> list[str]:
    """The layers that do ``share`` of the multiplications, the costliest first, without the first one and the last one
    that one sample passes, and without layers that no INT8 operator is for."""
    named = layers(network.module)
    asked: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def hook(part: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            weight = part.get_parameter("weight")
            asked[name] = asked.get(name, 0) + output[0].numel() * weight[0].numel()

        return hook

    handles = [part.register_forward_hook(count(name)) for name, part in named.items()]
    labels = None if facts.num_labels is None else torch.zeros(1, dtype=torch.int64)
    try:
        with torch.inference_mode():
            network(torch.zeros((1, *facts.shape)), torch.full((1,), 0.5), labels)
    finally:
        for handle in handles:
            handle.remove()
    taking_x = [name for name in asked if not isinstance(named[name], torch.nn.Linear)] or list(asked)
    ends = {taking_x[0], taking_x[-1]}
    covered, chosen, whole = 0, [], sum(asked.values())
    for name in sorted(asked, key=lambda name: -asked[name]):
        if covered < share * whole and name not in ends and _has_operator(named[name]):
            chosen.append(name)
        covered += asked[name]
    return chosen


class Int8(torch.nn.Module):
    """A layer with packed INT8 weights; ``operator(x, packed weights, whether seven bits)`` computes it."""

    def __init__(self, operator: Callable[..., torch.Tensor], packed: Any, seven_bits: bool) -> None:
        super().__init__()
        self.operator, self.packed, self.seven_bits = operator, packed, seven_bits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output, float32 as ``x``."""
        return self.operator(x, self.packed, self.seven_bits)


def quantized(layer: torch.nn.Module) -> Int8:
    """An INT8 layer in place of a convolution or linear layer."""
    weight = layer.get_parameter("weight").detach()
    scales = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / WEIGHT_STEPS
    rounded = torch.quantize_per_channel(weight, scales, torch.zeros(len(weight), dtype=torch.int64), 0, torch.qint8)
    bias = None if layer.bias is None else layer.get_parameter("bias").detach()
    ops, seven_bits = torch.ops.quantized, not torch.cpu._is_vnni_supported()
    if isinstance(layer, torch.nn.Linear):
        return Int8(ops.linear_dynamic, ops.linear_prepack(rounded, bias), seven_bits)
    assert isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d)
    kind = f"conv{weight.dim() - 2}d"
    settings = (layer.stride, _padding(layer), layer.dilation, layer.groups)
    packed = getattr(ops, f"{kind}_prepack")(rounded, bias, *settings)
    return Int8(getattr(ops, f"{kind}_dynamic"), packed, seven_bits)


def _has_operator(layer: torch.nn.Module) -> bool:
    """Whether it pads with zeros, as much on one side as on the other."""
    if isinstance(layer, torch.nn.Linear):
        return True
    assert isinstance(layer, torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d)
    even = layer.padding == "same" and not all(k % 2 for k in layer.kernel_size)
    return layer.padding_mode == "zeros" and not even


def _padding(layer: torch.nn.Conv1d | torch.nn.Conv2d | torch.nn.Conv3d) -> tuple[int, ...]:
    """In pixels, where the layer names it."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        return tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    assert isinstance(layer.padding, tuple)
    return layer.padding
