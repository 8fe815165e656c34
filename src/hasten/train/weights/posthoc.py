"""Averages of the weights whose length is chosen after training, from snapshots of averages of other lengths.

A snapshot is a power function average at step ``t`` with exponent ``gamma``, of profile
``p(k) = (gamma + 1) k^gamma / t^(gamma + 1)`` on [0, t].  The wanted profile is approximated by the combination of the
snapshots' that is nearest in the least squares sense, among those whose coefficients sum to 1, so that weights that
stand still are met exactly.  Karras et al. 2024, arXiv:2312.02696, appendix C.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hasten.diffusion.schedule import Array
from hasten.errors import BadInput
from hasten.files import replacing
from hasten.train.weights.average import PowerAverage, exponent

PATTERN = "average-*-*.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """The file of one average: after how many steps, and how long its profile is."""

    path: Path
    step: int
    sigma_rel: float


def save(average: PowerAverage, step: int, folder: Path) -> Path:
    """Write ``average-<step>-<sigma_rel>.safetensors`` into ``folder``, whole or not at all."""
    path = folder / f"average-{step:07d}-{average.sigma_rel:.3f}.safetensors"
    meta = json.dumps({"step": step, "sigma_rel": average.sigma_rel})
    with replacing(path) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in average.tensors.items()}
        save_file(tensors, temporary, metadata={"hasten": meta})
    return path


def snapshots(folder: Path) -> list[Snapshot]:
    """All snapshots in ``folder``, oldest first.  Raises BadInput for a file that is none."""
    return [_snapshot(path) for path in sorted(folder.glob(PATTERN))]


def _snapshot(path: Path) -> Snapshot:
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["hasten"])
        return Snapshot(path, int(meta["step"]), float(meta["sigma_rel"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is no snapshot of an average ({error}); move it out of the run's folder") from error


def inner(steps: Array, gammas: Array, others: Array, other_gammas: Array) -> Array:
    """The profiles' inner products (n, m): of n at ``steps`` with ``gammas``, with m at ``others``."""
    t, g = steps[:, None], gammas[:, None]
    late_gamma = np.where(t <= others, other_gammas, g)
    ratio = np.minimum(t, others) / np.maximum(t, others)  # in powers of this alone, nothing overflows
    products = (g + 1) * (other_gammas + 1) / (g + other_gammas + 1) * ratio**late_gamma / np.maximum(t, others)
    return np.asarray(products)


def coefficients(kept: Sequence[tuple[int, float]], step: int, sigma_rel: float) -> tuple[Array, float]:
    """What to multiply snapshots at ``(step, sigma_rel)`` with, (n,), to get an average at ``step``; and the error.

    The error is the distance of the profile from the wanted one over the wanted one's norm: 0 for one that is there.
    """
    steps = np.array([float(each) for each, _ in kept])
    gammas = np.array([exponent(sigma) for _, sigma in kept])
    wanted_step, wanted_gamma = np.array([float(step)]), np.array([exponent(sigma_rel)])
    products = inner(steps, gammas, steps, gammas)
    towards = inner(steps, gammas, wanted_step, wanted_gamma)[:, 0]
    norm = inner(wanted_step, wanted_gamma, wanted_step, wanted_gamma)[0, 0]
    scale = products.max()
    bordered = np.ones((len(kept) + 1, len(kept) + 1))
    bordered[:-1, :-1], bordered[-1, -1] = products / scale, 0.0
    solution = np.linalg.lstsq(bordered, np.append(towards / scale, 1.0), rcond=1e-14)[0][:-1]
    squared = solution @ products @ solution - 2.0 * solution @ towards + norm
    return solution, float(np.sqrt(max(squared, 0.0) / norm))


def reconstruct(kept: Sequence[Snapshot], step: int, sigma_rel: float) -> dict[str, torch.Tensor]:
    """The average of length ``sigma_rel`` after ``step`` steps, in float32, from the snapshots up to then.

    Files are read one at a time and tensor by tensor.  Tensors of integers are the last snapshot's.  Raises BadInput
    without a snapshot up to ``step``, or where the files hold different tensors.
    """
    used = [snapshot for snapshot in kept if snapshot.step <= step]
    if not used:
        raise BadInput(f"no snapshot of an average up to step {step}; ask for a later one, or train with ema_profiles")
    factors, _ = coefficients([(each.step, each.sigma_rel) for each in used], step, sigma_rel)
    total: dict[str, torch.Tensor] = {}
    for snapshot, factor in sorted(zip(used, factors, strict=True), key=lambda pair: pair[0].step):
        try:
            _add_(total, snapshot, float(factor))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise BadInput(f"{snapshot.path} can't be read ({error}); leave it out") from error
    return total


def _add_(total: dict[str, torch.Tensor], snapshot: Snapshot, factor: float) -> None:
    with safe_open(snapshot.path, "pt") as file:
        names = list(file.keys())
        if total and set(names) != total.keys():
            raise BadInput(f"{snapshot.path} holds other tensors than the snapshots before it; keep those of one run")
        for name in names:
            tensor = file.get_tensor(name)
            if not tensor.is_floating_point():
                total[name] = tensor
            elif name in total:
                total[name].add_(tensor.float(), alpha=factor)
            else:
                total[name] = tensor.float() * factor


def nearest(kept: Sequence[Snapshot], step: int, sigmas: Sequence[float]) -> Mapping[float, float]:
    """The relative error of the profile that :func:`reconstruct` would give, for each of ``sigmas``."""
    pairs = [(each.step, each.sigma_rel) for each in kept if each.step <= step]
    return {sigma: coefficients(pairs, step, sigma)[1] for sigma in sigmas}
