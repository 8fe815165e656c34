"""What samples are described by before their distance is measured: features of the network, or frequency bands.

Nothing is downloaded, any shape will do, and a person can bring other :class:`Features`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hasten.errors import BadInput, HastenError
from hasten.measure.distance import Array
from hasten.model.target import Target
from hasten.seeds import Purpose, seed_of

FEATURE_S = 0.01  # the lower, the more of each damage it sees (LOG.md)
FEATURE_BATCH = 64
BANDS = 4


@dataclass(frozen=True)
class Features:
    """A fixed map from samples (n, *shape) float32 on the host to vectors (n, d), and its name in reports."""

    name: str
    extract: Callable[[torch.Tensor], Array]


def bring(text: str) -> Features:
    """A person's own extractor, named ``module:callable``; modules are sought in the working folder too.

    It takes samples (n, *shape) float32 on the host and returns vectors (n, d), an array or a tensor.  The module's
    code runs.  Raises BadInput when there is no such callable, HastenError when it answers with something else.
    """
    module, _, name = text.partition(":")
    try:
        sys.path.insert(0, str(Path.cwd()))
        brought = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise BadInput(f"features {text!r}: {error}; write module:callable") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(brought):
        raise BadInput(f"features {text!r} is a {type(brought).__name__}; it must be callable")

    def extract(samples: torch.Tensor) -> Array:
        with torch.inference_mode():
            parts = [np.asarray(torch.as_tensor(brought(batch)).cpu()) for batch in torch.split(samples, FEATURE_BATCH)]
        made: Array = np.concatenate(parts).astype(np.float64)
        if made.ndim != 2 or len(made) != len(samples) or not np.isfinite(made).all():
            raise HastenError(
                f"features {text!r} made an array of shape {made.shape} from {len(samples)} samples; "
                f"it must be ({len(samples)}, d) and finite"
            )
        return made

    return Features(text, extract)


def bands(samples: torch.Tensor) -> tuple[Array, ...]:
    """``samples`` (n, *shape) as up to four frequency bands, fine to coarse, each flattened to (n, d_k) float32.

    All axes but the first of ``shape`` (channels) are halved by averaging until the longest is under 8; a band is what
    that lost, the last one what is left.  Samples that are vectors, or small, make one band.
    """
    lost: list[torch.Tensor] = []
    x = samples
    while len(lost) < BANDS - 1 and x.dim() > 2 and max(x.shape[2:]) >= 8:
        coarse = halved(x)
        fine = x
        back = coarse
        for axis in range(2, x.dim()):
            if x.shape[axis] > 1:
                back = back.repeat_interleave(2, axis)
                fine = fine.narrow(axis, 0, back.shape[axis])
        lost.append(fine - back)
        x = coarse
    return tuple(band.flatten(1).numpy() for band in [*lost, x])


def halved(samples: torch.Tensor) -> torch.Tensor:
    """``samples`` (n, channels, *axes) with each axis over 1 halved by averaging; vectors stay what they are."""
    for axis in range(2, samples.dim()):
        if samples.shape[axis] > 1:
            even = samples.narrow(axis, 0, samples.shape[axis] // 2 * 2)
            samples = even.unflatten(axis, (-1, 2)).mean(axis + 1)  # type: ignore[no-untyped-call]
    return samples


def network_features(target: Target, s: float = FEATURE_S) -> Features:
    """The network's own middle features at noise-to-signal ratio ``s``, as channel means and deviations.

    The middle is the module called ``mid_block`` where there is one.  Else it is found by a trial: of the convolutions
    and linear layers whose output depends on the sample, those with the fewest positions, and the middle one of these
    in order of execution.  A network that has none, or that is no torch module, gets the raw samples.

    One noise, drawn once, is added to every sample, and the label is "no class" (0 where there is none), so that the
    features are a fixed function of the sample.
    """
    module = target.module
    layer = None if module is None else _middle(target, module, s)
    if module is None or layer is None:
        return Features("raw samples", lambda samples: samples.flatten(1).double().numpy())
    name, axis = layer

    def extract(samples: torch.Tensor) -> Array:
        parts = []
        for batch in torch.split(samples, FEATURE_BATCH):
            output = _outputs(target, {name: module.get_submodule(name)}, batch, s, stop=True)[name]
            flat = output.movedim(axis, 1).flatten(2) if output.dim() > 2 else output[:, :, None]
            pooled = [flat.mean(2)] if flat.shape[2] == 1 else [flat.mean(2), flat.std(2)]
            parts.append(torch.cat(pooled, 1).double().cpu())
        return torch.cat(parts).numpy()

    return Features(f"{name} at s = {s:g}", extract)


class _Reached(Exception):
    """Ends a forward pass once the layer that was asked for has answered."""


@torch.inference_mode()
def _outputs(
    target: Target, layers: dict[str, torch.nn.Module], samples: torch.Tensor, s: float, stop: bool
) -> dict[str, torch.Tensor]:
    """What each of ``layers`` first returns, in order of execution, for ``samples`` noised to ``s``.

    ``stop``: at the first one, which saves the rest of the network.
    """
    facts, t = target.facts, float(target.schedule.t(s))
    rng = torch.Generator().manual_seed(seed_of(Purpose.FEATURES))
    noise = torch.randn(facts.shape, generator=rng)
    x = float(target.schedule.alpha(t)) * samples + float(target.schedule.sigma(t)) * noise
    labels = None
    if facts.num_labels is not None:
        labels = torch.full((len(samples),), facts.null_label or 0, device=facts.device)
    outputs: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                outputs.setdefault(name, first)
                if stop:
                    raise _Reached

        return hook

    hooks = [layer.register_forward_hook(remember(name)) for name, layer in layers.items()]
    try:
        replace(target, guidance=1.0).denoise(x.to(facts.device), t, labels)
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _middle(target: Target, module: torch.nn.Module, s: float) -> tuple[str, int] | None:
    """The name of the middle layer and the axis of its channels; see :func:`network_features`."""
    for name, _ in module.named_modules():
        if name.rpartition(".")[2] == "mid_block":
            return name, 1
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    layers: dict[str, torch.nn.Module] = {n: layer for n, layer in module.named_modules() if isinstance(layer, kinds)}
    rng = torch.Generator().manual_seed(seed_of(Purpose.MIDDLE_LAYER))
    trial = torch.randn((2, *target.facts.shape), generator=rng)
    usable = []
    for name, output in _outputs(target, layers, trial, s, stop=False).items():
        axis = output.dim() - 1 if isinstance(layers[name], torch.nn.Linear) else 1
        if output.dim() > 1 and len(output) == 2 and not torch.equal(output[0], output[1]):
            usable.append((output[0].numel() // output.shape[axis], name, axis))
    if not usable:
        return None
    fewest = min(positions for positions, _, _ in usable)
    deepest = [(name, axis) for positions, name, axis in usable if positions == fewest]
    return deepest[len(deepest) // 2]
