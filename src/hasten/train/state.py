"""Everything a run needs to go on exactly: weights, their average, optimiser state, step; safetensors, no pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hasten.errors import BadInput, HastenError
from hasten.files import replacing

KEEP = 2
PATTERN = "checkpoint-*.safetensors"


@dataclass
class State:
    """The mutable whole of a run.  ``optimizer`` holds AdamW's own state over ``network``'s parameters."""

    network: torch.nn.Module
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


def check_place(out: Path, resume: bool | Path) -> None:
    """Raise BadInput when ``out`` holds a run that would be overwritten, or none to be resumed."""
    kept = list(out.glob(PATTERN))
    if not resume and (kept or (out / "model").exists()):
        what = "a finished run" if (out / "model").exists() else f"a run's checkpoints ({max(kept).name})"
        raise BadInput(f"{out} holds {what}; use --resume or another --out")
    if resume is True and not kept:
        raise BadInput(f"{out} holds no checkpoint; drop --resume")
    if isinstance(resume, Path) and not resume.is_file():
        raise BadInput(f"checkpoint {resume} is not there; pass a checkpoint file, or only --resume for the newest")


def needed_bytes(network: torch.nn.Module, out: Path) -> int:
    """What a run still writes to ``out``: three checkpoints (two are kept, one is being written) less those there
    (each has weights, average and two moments), and the model in float16."""
    weight_bytes = sum(int(value.nbytes) for value in network.state_dict().values())
    checkpoints = KEEP + 1 - min(KEEP, len(list(out.glob(PATTERN))))
    return weight_bytes * 4 * checkpoints + weight_bytes // 2


def save(state: State, folder: Path, fingerprint: str, recipe: Mapping[str, Any]) -> Path:
    """Write ``checkpoint-<step>.safetensors`` whole or not at all, then drop all older ones but one.

    Raises HastenError when it can't be written; the checkpoints before it are kept then.
    """
    names = [name for name, _ in state.network.named_parameters()]
    tensors = {f"network.{name}": value.detach() for name, value in state.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    for name, parameter in zip(names, state.network.parameters(), strict=True):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    meta = {"step": state.step, "fingerprint": fingerprint, "recipe": recipe, "crc32": _crc32(tensors)}
    path = folder / f"checkpoint-{state.step:07d}.safetensors"
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"hasten": json.dumps(meta)})
    except (OSError, SafetensorError) as error:
        raise HastenError(
            f"{path} could not be written ({error}); earlier checkpoints are kept: make room, then --resume"
        ) from error
    for old in [kept for kept in sorted(folder.glob(PATTERN)) if kept.name <= path.name][:-KEEP]:
        old.unlink()
    for left in folder.glob(f".{PATTERN}.*.part"):  # by a run that was killed while it saved
        left.unlink()
    return path


def restore_(state: State, where: Path, fingerprint: str, recipe: Mapping[str, Any]) -> list[str]:
    """Put the newest readable checkpoint of the folder ``where``, or exactly the file ``where``, into ``state``.

    Returns a line on each that was passed over and on the one used instead.  Raises BadInput when none is readable, or
    when it was made by another recipe (the fields that differ are named) or from other data.
    """
    skipped: list[str] = []
    for path in [where] if where.is_file() else sorted(where.glob(PATTERN), reverse=True):
        try:
            step, meta, tensors = _read(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            skipped.append(f"{path.name} is unreadable ({error})")
            continue
        if meta.get("fingerprint") != fingerprint:
            raise BadInput(f"{path} was made {_why(meta.get('recipe'), recipe)}, or --out with a new folder")
        _put_(state, tensors, step)
        return [*skipped, f"{path.name} is used instead"] if skipped else []
    raise BadInput(f"no readable checkpoint in {where}: {'; '.join(skipped)}; start anew with another --out")


def _read(path: Path) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        meta = json.loads((file.metadata() or {})["hasten"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if meta.get("crc32", found := _crc32(tensors)) != found:
        raise ValueError("its tensors do not have the checksum that was written")
    return int(meta["step"]), meta, tensors


def _crc32(tensors: Mapping[str, torch.Tensor]) -> int:
    checksum = 0
    for name in sorted(tensors):
        content = tensors[name].reshape(-1).view(torch.uint8).numpy().data
        checksum = zlib.crc32(content, zlib.crc32(name.encode(), checksum))
    return checksum


def _why(there: Mapping[str, Any] | None, here: Mapping[str, Any]) -> str:
    """What made the fingerprints differ, and what to use instead."""
    if there is None:
        return "by another recipe or from other data; use those"
    was = {(part, key): value for part, section in there.items() for key, value in section.items()}
    now = {(part, key): value for part, section in here.items() for key, value in section.items()}
    fields = [
        f"{part}.{key} was {was.get((part, key))!r} and is {now.get((part, key))!r}"
        for part, key in sorted(was.keys() | now.keys())
        if was.get((part, key)) != now.get((part, key))
    ]
    if not fields:
        return "from other data; bring that back"
    return f"by another recipe ({', '.join(fields)}); use that recipe"


def _put_(state: State, tensors: dict[str, torch.Tensor], step: int) -> None:
    part: dict[str, dict[str, torch.Tensor]] = {"network": {}, "average": {}}
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in part:
            part[kind][rest] = tensor
        elif kind == "optimizer":
            key, _, owner = rest.partition(".")
            moments.setdefault(owner, {})[key] = tensor
    state.network.load_state_dict(part["network"])
    for name, value in state.average.items():
        value.copy_(part["average"][name])
    for name, parameter in state.network.named_parameters():
        if name in moments:
            state.optimizer.state[parameter] = {k: _beside(v, parameter) for k, v in moments[name].items()}
    state.step = step
    state.losses = tensors["losses"].tolist()


def _beside(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """``value`` on the parameter's device, and in its memory layout: fused AdamW walks both side by side."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, requires_grad=False).copy_(value)
