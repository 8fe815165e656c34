"""Unstructured pruning: weights of least magnitude become zero, in a model folder of the same shape.

Over all layers at once, in each layer alike (Han et al. 2015, arXiv:1506.02626), or N:M, the two largest of every four
inputs (Mishra et al. 2021, arXiv:2104.08378).  Zeros make a file smaller once it is compressed; whether an engine runs
them faster, is measured (:func:`speeds`), and mostly it does not.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save

from hasten import guard
from hasten.distill.blocks import Tell
from hasten.errors import BadInput
from hasten.measure import pair
from hasten.measure.clock import Clock
from hasten.measure.stats import FEWEST_ROUNDS
from hasten.model import source as sources
from hasten.model.config import read_folder
from hasten.model.folder import save_folder
from hasten.model.source import Source
from hasten.model.target import weight_names
from hasten.model.workload import draw
from hasten.technique import plan as plans
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.sampler import STEP_PROBE

Pattern = Literal["global", "layer", "2:4"]
HALF = 0.5


def masks(module: torch.nn.Module, sparsity: float, pattern: Pattern) -> dict[str, torch.Tensor]:
    """Which weights stay, by name, of each convolution and linear layer: bool, of the weight's shape.

    ``sparsity``, in (0, 1): the share that goes; 2:4 has one of its own.  Of 2:4 a layer whose number of inputs is no
    multiple of four stays whole.
    """
    weights = {name: module.get_parameter(name).detach() for name in weight_names(module)}
    if pattern == "2:4":
        return {name: _two_of_four(weight) for name, weight in weights.items()}
    if pattern == "layer":
        return {name: weight.abs() > _quantile(weight.abs().flatten(), sparsity) for name, weight in weights.items()}
    edge = _quantile(torch.cat([weight.abs().flatten() for weight in weights.values()]), sparsity)
    return {name: weight.abs() > edge for name, weight in weights.items()}


def prune(
    source: Source, sparsity: float | None, pattern: Pattern, out: Path, tell: Tell | None = None
) -> dict[str, Any]:
    """Write ``out``, the model of ``source`` with zeros, and return what is ``zero`` (a share of all weights of layers)
    and ``compressed`` (bytes before and after, float16 by zlib).  ``sparsity`` is None, or 0.5, for 2:4.
    With ``tell(what, done, of)`` also its :func:`speeds`; nothing is left at ``out`` where they can't be measured.

    Raises BadInput for a source that is no diffusers folder and for a share out of range.
    """
    if source.folder is None:
        raise BadInput(f"{source.name} is a module of your own; zero its weights by hasten.distill.sparse.masks")
    if pattern == "2:4":
        if sparsity not in (None, HALF):
            raise BadInput(f"sparsity {sparsity:g}: of 2:4 it is {HALF:g}; leave it out, or use another pattern")
        sparsity = HALF
    if sparsity is None or not 0.0 < sparsity < 1.0:
        raise BadInput(f"sparsity {sparsity} is out of range; over 0, under 1")
    with guard.making(out) as folder:
        found = _prune(source, sparsity, pattern, folder)
        return found if tell is None else {**found, "speeds": speeds(source, folder, tell)}


def _prune(source: Source, sparsity: float, pattern: Pattern, folder: Path) -> dict[str, Any]:
    network = source.module().float()
    kept = masks(network, sparsity, pattern)
    weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    before = _compressed(weights)
    for name, mask in kept.items():
        weights[name] *= mask
    zero = 1.0 - sum(int(mask.sum()) for mask in kept.values()) / sum(mask.numel() for mask in kept.values())
    assert source.folder is not None
    spec = read_folder(source.folder)
    told = {"from": source.name, "weights": source.weight_hash, "pattern": pattern, "zero": round(zero, 4)}
    save_folder(folder, dict(spec.network_config), weights, spec.scheduler, {**spec.extra, "pruned": told})
    return {"zero": zero, "compressed": (before, _compressed(weights))}


def speeds(dense: Source, folder: Path, tell: Tell) -> dict[str, pair.Comparison]:
    """The sparse model against the dense one, by engine, in pairs."""
    sparse, facts = sources.load(folder), dense.build().facts
    found = {}
    engines = {"PyTorch eager": Plan((STEP_PROBE,)), "OpenVINO": Plan((Runtime("float32", 1), STEP_PROBE))}
    for number, (name, plan) in enumerate(engines.items()):
        if plan.refusal(facts) is not None:
            continue
        tell(f"dense and sparse on {name}", number, len(engines))
        found[name] = pair.compare(
            lambda plan=plan: plans.build(dense, plan),  # type: ignore[misc]
            lambda plan=plan: plans.build(sparse, plan),  # type: ignore[misc]
            draw(dense.shape, 1, 16, 0, dense.labels),
            pair.Rounds(FEWEST_ROUNDS, clock=Clock(dense.device)),
        )
    return found


def is_sparse(folder: Path) -> bool:
    """Whether a model folder says that it was pruned to zeros."""
    return "zero" in read_folder(folder).extra.get("pruned", {})


def _two_of_four(weight: torch.Tensor) -> torch.Tensor:
    if weight.dim() < 2 or weight.shape[1] % 4:
        return torch.ones_like(weight, dtype=torch.bool)
    last = weight.abs().movedim(1, -1)  # the inputs of a product lie side by side, as channels do
    groups = last.reshape(*last.shape[:-1], -1, 4)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(2, dim=-1).indices, True)
    return kept.reshape(last.shape).movedim(-1, 1)


def _quantile(values: torch.Tensor, share: float) -> float:
    """The value that ``share`` of ``values`` are not above (``torch.quantile`` takes 16 million at most)."""
    return float(values.kthvalue(max(round(share * len(values)), 1)).values)


def _compressed(weights: dict[str, torch.Tensor]) -> int:
    halves = {name: value.to(torch.float16).contiguous() for name, value in weights.items()}
    return len(zlib.compress(save(halves), 6))
