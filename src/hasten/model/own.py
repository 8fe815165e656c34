"""A module of one's own, as people have them: how it is copied, how it hears the time, and what it answers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from hasten.errors import BadInput
from hasten.model.target import Call

ADVICE = "pass call=, a function of (module, x, time, labels) that returns one tensor"


@dataclass(frozen=True)
class Asked:
    """``call``, with one tensor out of whatever comes back, and with the time as whole numbers where ``whole``."""

    call: Callable[..., Any]
    whole: bool = False

    def __call__(
        self, module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None
    ) -> torch.Tensor:
        """Ask ``module``; float64 becomes float32."""
        output = tensor_of(self.call(module, x, time.round().long() if self.whole else time, labels))
        return output.float() if output.dtype == torch.float64 else output


def settled(
    module: torch.nn.Module,
    call: Call,
    x: torch.Tensor,
    time: torch.Tensor,
    labels: torch.Tensor | None,
    discrete: bool,
) -> Asked:
    """How ``module`` is asked, found out by asking it once: with the time as floats, else as whole numbers.

    Raises BadInput when it can't be asked either way, needs whole numbers though the schedule is not ``discrete``, or
    answers no tensor of floats of the shape of ``x``.
    """
    name, asked = type(module).__name__, Asked(call)
    try:
        output = asked(module, x, time, labels)
    except BadInput:
        raise
    except Exception as error:  # whatever a person's own code raises
        asked = replace(asked, whole=True)
        try:
            output, failed = asked(module, x, time, labels), None
        except Exception as second:
            output, failed = x, second
        about_time = failed is None or str(failed) != str(error)
        if about_time and not discrete:
            raise BadInput(
                f"{name} takes the time as whole numbers ({_first(error)}), and this schedule has none; pass a "
                f"discrete one, such as hasten.diffusion.schedule.linear(), or {ADVICE}"
            ) from error
        if failed is not None:
            told = f"x {tuple(x.shape)}, time {tuple(time.shape)}" + (" in whole numbers" if about_time else "")
            told += "" if labels is None else f", labels {tuple(labels.shape)}"
            raise BadInput(
                f"{name} can't be asked with {told} ({_first(failed)}); correct schedule=, shape= and num_labels=, or "
                f"{ADVICE}"
            ) from error
    if not output.is_floating_point():
        raise BadInput(f"{name} answers {output.dtype}, and floats are needed; {ADVICE}")
    if output.shape != x.shape:
        raise BadInput(
            f"{name} answers {tuple(output.shape)} to inputs {tuple(x.shape)}, and the shapes must be equal; "
            f"correct shape=, or {ADVICE}"
        )
    return asked


def tensor_of(output: Any) -> torch.Tensor:
    """The one tensor that is meant: the output itself, its ``sample``, the first of a tuple, the only one it holds.

    Raises BadInput where that is none, or could be several.
    """
    if isinstance(output, torch.Tensor):
        return output
    held = dict(output) if isinstance(output, Mapping) else _fields(output)
    if isinstance(held.get("sample"), torch.Tensor):
        sample: torch.Tensor = held["sample"]
        return sample
    tensors = {name: value for name, value in held.items() if isinstance(value, torch.Tensor)}
    if len(tensors) == 1 or (tensors and isinstance(output, tuple | list)):
        return next(iter(tensors.values()))
    what = f"{len(tensors)} tensors ({', '.join(map(str, tensors))})" if tensors else "no tensor"
    raise BadInput(f"the module answers with a {type(output).__name__} of {what}, none called sample; {ADVICE}")


def copied(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of its own memory; what a module has computed from its parameters, as old-style weight_norm does, too.

    Raises BadInput for what Python can't copy.
    """
    made = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    try:
        return copy.deepcopy(module, made)
    except (TypeError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise BadInput(
            f"{type(module).__name__} can't be copied ({_first(error)}); hold modules, tensors and plain values in it"
        ) from error


def fold_(module: torch.nn.Module) -> None:
    """Replace old-style weight_norm and spectral_norm in ``module`` by the weights that they make: engines, number
    formats and copies know plain weights."""
    for part in module.modules():
        for hook in list(part._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(part, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(part, hook.name)


def _fields(output: Any) -> dict[Any, Any]:
    """What a tuple, a list or a dataclass holds, by name or place."""
    if isinstance(output, tuple | list):
        return dict(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {"sample": getattr(output, "sample", None)}


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
