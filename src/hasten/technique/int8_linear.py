"""INT8 products of linear layers inside PyTorch, by torchao: for transformers, and for GPUs, which OpenVINO leaves out.

Weights are rounded once, symmetric, by output channel.  Inputs are rounded either by each row's own extremes as it runs
("dynamic": Zafrir et al. 2019, arXiv:1910.06188) or by ranges calibrated on states of the model's own trajectories
("static").  Rounding is only fast once inductor has fused it with what comes before: plans add ``compile``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from hasten.environment import int8_products
from hasten.errors import BadInput, MissingExtra
from hasten.model.target import Facts, Target, TorchNetwork
from hasten.technique.answers import own_answers
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage, kept_tensors
from hasten.technique.quantize import calibration_states

RANGES = ("dynamic", "static")
STEPS, SEVEN_BIT_STEPS = 127, 63  # of inputs; the fewer where sums of products of eight bits would overflow
MULTIPLE = 16  # of features, which INT8 kernels ask for


@dataclass(frozen=True)
class Int8Linear:
    """``ranges`` of the inputs: "dynamic" or "static"; ``share``: of all multiplications in linear layers, how much the
    quantised ones do, the costliest first, over 0 to 1; ``images``: trajectories that static ranges are taken from, 1
    to 256.
    """

    name: ClassVar[str] = "int8_linear"
    effects: ClassVar[Effects] = Effects(
        Stage.LINEAR,
        Fidelity.LOSSY,
        scope="linear layers",
        requires=frozenset({"torch_module", "float_weights"}),
        breaks=frozenset({"float32", "float_weights", "exportable", "trainable"}),
        claims=frozenset({"linear_weights"}),
    )

    ranges: str = "dynamic"
    share: float = 0.95
    images: int = 16

    def __post_init__(self) -> None:
        if self.ranges not in RANGES:
            raise BadInput(f"int8_linear.ranges {self.ranges!r} is not known; known: {', '.join(RANGES)}")
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"int8_linear.share = {self.share} is out of range; over 0, up to 1")
        if not 1 <= self.images <= 256:
            raise BadInput(f"int8_linear.images = {self.images} is out of range; 1 to 256")

    @property
    def label(self) -> str:
        """ "int8 linear layers, dynamic"."""
        return f"int8 linear layers, {self.ranges}"

    @classmethod
    def rests_on(cls) -> str:
        """torchao, and VNNI, without which sums of products of eight bits overflow."""
        try:
            return f"torchao {version('torchao')}; {int8_products()}"
        except PackageNotFoundError:
            return f"{MissingExtra('torchao', 'torchao')}: refused"

    def refuse(self, facts: Facts) -> str | None:
        """Needs linear layers, and torchao."""
        if not any(name == "Linear" for name, _ in facts.kinds):
            return "there is no linear layer to quantise; drop int8_linear"
        try:
            _torchao()
        except MissingExtra as error:
            return str(error)
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Int8Linear, ...]:
        """Both ranges."""
        return tuple(cls(ranges) for ranges in RANGES)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Round the weights of the costliest linear layers; the module is the target's own."""
        assert isinstance(target.network, TorchNetwork)
        prepared.after(self)
        module, dtype = target.network.module, target.network.dtype
        chosen = costliest(target, self.share)
        ranges: dict[str, torch.Tensor] = {}
        if self.ranges == "static":
            prepared.answering(own_answers(target))

            def make(folder: Path) -> None:
                save_file(largest(target, chosen, self.images), folder / "largest.safetensors")

            kept = kept_tensors(prepared.get("int8-linear", make) / "largest.safetensors", chosen)
            ranges = {name: kept[name].to(target.facts.device, dtype) for name in chosen}
        for name in chosen:
            quantize(module.get_submodule(name), target.facts.device, ranges.get(name))


def costliest(target: Target, share: float) -> list[str]:
    """The linear layers that do ``share`` of their multiplications for one sample, the costliest first, of those that
    have INT8 kernels."""
    work: dict[str, int] = {}

    def count(name: str, layer: torch.nn.Linear, inputs: torch.Tensor) -> None:
        work[name] = work.get(name, 0) + inputs.numel() * layer.out_features

    labels = None if target.facts.num_labels is None else torch.zeros(1, dtype=torch.int64)
    x, time = torch.zeros((1, *target.facts.shape)), torch.full((1,), 0.5)
    _watch(target, count, [(x, time) if labels is None else (x, time, labels)])
    chosen, done, whole = [], 0, sum(work.values())
    for name in sorted(work, key=lambda name: -work[name]):
        if done >= share * whole:
            break
        layer = _linear(target)[name]
        if layer.in_features % MULTIPLE == 0 and layer.out_features % MULTIPLE == 0:
            chosen.append(name)
        done += work[name]
    return chosen


def largest(target: Target, names: list[str], images: int) -> dict[str, torch.Tensor]:
    """The largest size of the inputs of layers ``names`` over calibration states, with as many dimensions as they."""
    seen: dict[str, torch.Tensor] = {}

    def look(name: str, _layer: torch.nn.Linear, inputs: torch.Tensor) -> None:
        size = inputs.abs().amax().float().cpu().reshape((1,) * inputs.dim())
        seen[name] = torch.maximum(seen[name], size) if name in seen else size

    _watch(target, look, calibration_states(target, images))
    return {name: seen[name].clamp_min(1e-6) for name in names}


def _linear(target: Target) -> dict[str, torch.nn.Linear]:
    assert isinstance(target.network, TorchNetwork)
    modules = target.network.module.named_modules()
    return {name: part for name, part in modules if type(part) is torch.nn.Linear}


def _watch(
    target: Target, see: Callable[[str, torch.nn.Linear, torch.Tensor], None], states: list[tuple[torch.Tensor, ...]]
) -> None:
    """``see(name, layer, inputs)`` of each linear layer that is asked at ``states``: ``(x, time)``, or with labels."""
    device = torch.device(target.facts.device)

    def hook(name: str) -> Callable[..., None]:
        return lambda part, inputs: see(name, part, inputs[0])

    handles = [part.register_forward_pre_hook(hook(name)) for name, part in _linear(target).items()]
    try:
        with torch.inference_mode():
            for state in states:
                x, time, *labels = (part.to(device) for part in state)
                target.network(x, time, labels[0] if labels else None)
    finally:
        for handle in handles:
            handle.remove()


def quantize(layer: torch.nn.Module, device: str, most: torch.Tensor | None) -> None:
    """Round its weights; its inputs by ``most``, their largest size (of as many dimensions), or by what they
    are."""
    ao = _torchao()
    fewer = seven_bits(device)
    settings = {"set_inductor_config": False, "reduce_range": fewer}
    if most is None:
        config = ao.quantization.Int8DynamicActivationInt8WeightConfig(**settings)
    else:
        scale = most / (SEVEN_BIT_STEPS if fewer else STEPS)
        granularity = [ao.quantization.PerTensor(), ao.quantization.PerRow()]
        static = ao.quantization.quant_api.Int8StaticActivationInt8WeightConfig
        config = static(act_quant_scale=scale, granularity=granularity, **settings)
    ao.quantization.quantize_(layer, config, filter_fn=lambda *_: True)


def seven_bits(device: str) -> bool:
    """Whether inputs and weights get seven bits on ``device``, as torchao finds: on a CPU without VNNI."""
    return bool(_torchao().utils.should_reduce_range(torch.device(device)))


def _torchao() -> Any:
    """The package.  Raises MissingExtra where it is not installed."""
    try:
        import torchao.quantization
        import torchao.utils
    except ImportError as error:
        raise MissingExtra("torchao", "torchao") from error
    return torchao
