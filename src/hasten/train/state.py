"""Everything a run needs to go on exactly: weights, their average, optimiser state, step; safetensors, no pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hasten.errors import BadInput
from hasten.files import replacing

KEEP = 2


@dataclass
class State:
    """The mutable whole of a run.  ``optimizer`` holds AdamW's own state over ``network``'s parameters."""

    network: torch.nn.Module
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[float] = field(default_factory=list)


def save(state: State, folder: Path, fingerprint: str) -> Path:
    """Write ``checkpoint-<step>.safetensors`` whole or not at all, then drop all but the newest two."""
    names = [name for name, _ in state.network.named_parameters()]
    tensors = {f"network.{name}": value.detach() for name, value in state.network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in state.average.items()}
    for name, parameter in zip(names, state.network.parameters(), strict=True):
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    tensors["losses"] = torch.tensor(state.losses, dtype=torch.float64)
    path = folder / f"checkpoint-{state.step:07d}.safetensors"
    with replacing(path) as temporary:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            temporary,
            metadata={"hasten": json.dumps({"step": state.step, "fingerprint": fingerprint})},
        )
    for old in sorted(folder.glob("checkpoint-*.safetensors"))[:-KEEP]:
        old.unlink()
    return path


def restore_(state: State, folder: Path, fingerprint: str) -> list[str]:
    """Put the newest readable checkpoint of ``folder`` into ``state``; returns a line on each that was passed over.

    Raises BadInput when there is none, or when it was made by another recipe.
    """
    skipped: list[str] = []
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {}).get("hasten", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:
            skipped.append(f"{path.name} is unreadable ({error})")
            continue
        if meta.get("fingerprint") != fingerprint:
            raise BadInput(f"{path} was made by another recipe or data; use --out with a new folder")
        _put_(state, tensors, int(meta["step"]))
        if skipped:
            skipped.append(f"{path.name} is used instead")
        return skipped
    raise BadInput(f"{folder} holds no readable checkpoint{': ' + '; '.join(skipped) if skipped else ''}; drop --resume")


def _put_(state: State, tensors: dict[str, torch.Tensor], step: int) -> None:
    part = {"network": {}, "average": {}}  # type: dict[str, dict[str, torch.Tensor]]
    moments: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in part:
            part[kind][rest] = tensor
        elif kind == "optimizer":
            key, _, parameter = rest.partition(".")
            moments.setdefault(parameter, {})[key] = tensor
    state.network.load_state_dict(part["network"])
    for name, value in state.average.items():
        value.copy_(part["average"][name])
    for name, parameter in state.network.named_parameters():
        if name in moments:
            state.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in moments[name].items()
            }
    state.step = step
    state.losses = tensors["losses"].tolist()
