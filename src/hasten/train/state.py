"""Everything a run needs to go on exactly, in one safetensors file: whole or absent, verified, no pickle."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
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
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError)
Numbers = Mapping[str, Any]
Part = tuple[Callable[[], Numbers], Callable[[Numbers], Any]]


@dataclass
class State:
    """The mutable whole of a run; all of it is saved.

    ``named``: the parameters that ``optimizers`` step on: the network's own, or float32 copies of them, and what else
    is learnt.  ``kept``: tensors by kind and name that change in place (averages, lengths).  ``parts``: how the numbers
    of a part are read and put back, by name.  ``choices``: what was decided by measurement when the run began.

    ``step`` counts the optimiser's steps, ``batch`` the batches drawn: those that were skipped count here only.
    ``rewinds``: how often the run has gone back without getting past the ``leapt`` steps at which the loss leapt.
    """

    network: torch.nn.Module
    named: dict[str, torch.nn.Parameter]
    optimizers: tuple[torch.optim.Optimizer, ...]
    kept: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    batch: int = 0
    skipped: int = 0
    rewinds: int = 0
    leapt: int = 0
    best_loss: float | None = None

    @property
    def apart(self) -> dict[str, torch.nn.Parameter]:
        """Those of ``named`` that are not the network's own."""
        own = {id(parameter) for parameter in self.network.parameters()}
        return {name: parameter for name, parameter in self.named.items() if id(parameter) not in own}

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors by ``<kind>.<name>``, as they are."""
        found = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        found |= {f"apart.{name}": value for name, value in self.apart.items()}
        for kind, tensors in self.kept.items():
            found |= {f"{kind}.{name}": value for name, value in tensors.items()}
        for name, parameter in self.named.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    found[f"optimizer.{key}.{name}"] = value
        return found

    def numbers(self) -> dict[str, Any]:
        """All that is no tensor, ready for JSON."""
        return {
            "step": self.step,
            "batch": self.batch,
            "skipped": self.skipped,
            "rewinds": self.rewinds,
            "leapt": self.leapt,
            "best_loss": self.best_loss,
            "choices": self.choices,
            "parts": {name: dict(read()) for name, (read, _) in self.parts.items()},
        }


@dataclass(frozen=True, eq=False)
class Saved:
    """What a checkpoint held; ``passed_over``: a line on each newer one that could not be read."""

    path: Path
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, Any]
    passed_over: tuple[str, ...] = ()


def check_place(out: Path, resume: bool | Path) -> None:
    """Raise BadInput when ``out`` holds a run that would be overwritten, or none to be resumed."""
    kept = list(out.glob(PATTERN))
    if not resume and (kept or (out / "model").exists()):
        what = "a finished run" if (out / "model").exists() else f"a run's checkpoints ({max(kept).name})"
        raise BadInput(f"{out} holds {what}; resume it, or choose another folder")
    if resume is True and not kept:
        raise BadInput(f"{out} holds no checkpoint to resume from; begin anew")
    if isinstance(resume, Path) and not resume.is_file():
        raise BadInput(f"checkpoint {resume} is not there; pass a checkpoint file, or resume from the newest")


def needed_bytes(state: State, out: Path) -> int:
    """What a run still writes to ``out``: three checkpoints (two are kept, one is being written) less those there, with
    two moments for each parameter, and a model in float16 at the end, and one for the best."""
    tensors = [value for name, value in state.tensors().items() if not name.startswith("optimizer.")]
    one = sum(int(value.nbytes) for value in (*tensors, *state.named.values(), *state.named.values()))
    checkpoints = KEEP + 1 - min(KEEP, len(list(out.glob(PATTERN))))
    return one * checkpoints + sum(int(value.nbytes) for value in state.network.state_dict().values())


def save(state: State, folder: Path, fingerprint: str, recipe: Mapping[str, Any]) -> Path:
    """Write ``checkpoint-<step>.safetensors``, read it back, then drop all older ones but one.

    Written aside, synced, renamed, and the folder synced: at every moment it is whole or absent.  Raises HastenError
    when it can't be written, or reads back as something else; the checkpoints before it are kept then.
    """
    tensors, tied = _untied(state.tensors())
    checksum = _crc32(tensors)
    meta = {**state.numbers(), "fingerprint": fingerprint, "recipe": recipe, "crc32": checksum, "tied": tied}
    path = folder / f"checkpoint-{state.step:07d}.safetensors"
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"hasten": json.dumps(meta)})
        _read(path)
    except UNREADABLE as error:
        raise HastenError(
            f"{path} could not be written ({error}); earlier checkpoints are kept: make room, then resume"
        ) from error
    older = [kept for kept in sorted(folder.glob(PATTERN)) if kept.name <= path.name][:-KEEP]
    left = list(folder.glob(f".{PATTERN}.*.part"))  # by a run that was killed while it saved
    try:
        for each in (*older, *left):
            each.unlink()
    except OSError as error:
        raise HastenError(f"{path} is saved, but {each} can't be removed ({error}); remove it, then resume") from error
    return path


def read(where: Path, fingerprint: str, recipe: Mapping[str, Any]) -> Saved:
    """The newest readable checkpoint of the folder ``where``, or exactly the file ``where``.

    Raises BadInput when none is readable, or when it was made by another recipe (the fields that differ are named) or
    from other data.
    """
    skipped: list[str] = []
    for path in [where] if where.is_file() else sorted(where.glob(PATTERN), reverse=True):
        try:
            numbers, tensors = _read(path)
        except UNREADABLE as error:
            skipped.append(f"{path.name} is unreadable ({error})")
            continue
        if numbers.get("fingerprint") != fingerprint:
            raise BadInput(f"{path} was made {_why(numbers.get('recipe'), recipe)}, or begin in a new folder")
        return Saved(path, tensors, numbers, (*skipped, f"{path.name} is used instead") if skipped else ())
    raise BadInput(f"no readable checkpoint in {where}: {'; '.join(skipped)}; start anew in another folder")


def before(folder: Path, step: int) -> Path:
    """The newest checkpoint of at most ``step``, or the oldest; the folder itself where there is none."""
    paths = sorted(folder.glob(PATTERN))
    settled = [path for path in paths if int(path.name.split("-")[1].split(".")[0]) <= step]
    return (settled or paths[:1] or [folder])[-1]


def restore_(state: State, saved: Saved) -> None:
    """Put what was saved into ``state``, which was made by the same recipe."""
    of: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in saved.tensors.items():
        kind, _, rest = name.partition(".")
        of.setdefault(kind, {})[rest] = tensor
    state.network.load_state_dict(of["network"])
    with torch.no_grad():
        for name, parameter in state.apart.items():
            parameter.copy_(of["apart"][name])
        for kind, tensors in state.kept.items():
            for name, value in tensors.items():
                value.copy_(of[kind][name])
    owners = {id(p): o for o in state.optimizers for group in o.param_groups for p in group["params"]}
    for parameter in state.named.values():
        if id(parameter) in owners:
            owners[id(parameter)].state.pop(parameter, None)
    for key_and_name, tensor in of.get("optimizer", {}).items():
        key, _, name = key_and_name.partition(".")
        parameter = state.named[name]
        owners[id(parameter)].state[parameter][key] = _beside(tensor, parameter)
    numbers = saved.numbers
    for name, (_, put) in state.parts.items():
        put(numbers["parts"][name])
    for name in ("step", "batch", "skipped", "rewinds", "leapt", "best_loss", "choices"):
        setattr(state, name, numbers[name])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        numbers: dict[str, Any] = json.loads((file.metadata() or {})["hasten"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if numbers["crc32"] != _crc32(tensors):
        raise ValueError("its tensors do not have the checksum that was written")
    return numbers, tensors | {name: tensors[first] for name, first in numbers.get("tied", {}).items()}


def _untied(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors on the host, none of which shares memory with another, and the names of those left out for being
    the same as an earlier one, with its name."""
    found: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    seen: set[tuple[str, int]] = set()
    for name, value in tensors.items():
        memory = (str(value.device), value.untyped_storage().data_ptr())
        place = (*memory, value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() and place in first:
            tied[name] = first[place]
            continue
        first[place] = name
        host = value.detach().cpu().contiguous()
        found[name] = host.clone() if memory in seen else host  # a view of another's memory
        seen.add(memory)
    return found, tied


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
    was = {(part, key): value for part, section in there.items() for key, value in (section or {}).items()}
    now = {(part, key): value for part, section in here.items() for key, value in (section or {}).items()}
    fields = [
        f"{part}.{key} was {was.get((part, key))!r} and is {now.get((part, key))!r}"
        for part, key in sorted(was.keys() | now.keys())
        if was.get((part, key)) != now.get((part, key))
    ]
    if not fields:
        return "from other data; bring that back"
    return f"by another recipe ({', '.join(fields)}); use that recipe"


def _beside(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """``value`` on the parameter's device, and in its memory layout: fused AdamW walks both side by side."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
