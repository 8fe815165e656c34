"""How to build a model again: from a diffusers folder, or from a module of one's own."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from hasten import guard
from hasten.data.array import Data
from hasten.diffusion import solvers, times
from hasten.diffusion.prediction import PREDICTIONS, Prediction
from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Table
from hasten.environment import check_device
from hasten.errors import BadInput, did_you_mean
from hasten.model import own, scheduler
from hasten.model.config import read_folder
from hasten.model.noise import schedule_of
from hasten.model.target import Call, Facts, Target, TorchNetwork
from hasten.model.upsample import upsamplers
from hasten.model.weights import build_network, weight_hash
from hasten.seeds import Purpose, seed_of

BASELINE_SOLVER = "ddim"
BASELINE_STEPS = 50
BASELINE_GRID = "uniform"


@dataclass(frozen=True)
class Source:
    """Everything that :meth:`build` needs, and the hash of the weights that it builds.

    ``steps`` and ``scheduler``, the config of a folder's own, make the baseline's sampler.
    ``folder`` is None for a module of one's own; ``label_names`` and ``attribution`` come from ``hasten.json``.  A
    ``slim`` source has no weights: only an engine's own graph can answer in its place.
    """

    name: str
    module: Callable[[], torch.nn.Module] = field(repr=False)
    call: Call = field(repr=False)
    shape: tuple[int, ...]
    schedule: Schedule = field(repr=False)
    prediction: Prediction
    weight_hash: str
    folder: Path | None = None
    num_labels: int | None = None
    null_label: int | None = None
    label_names: tuple[str, ...] = field(default=(), repr=False)
    sigma_data: float = 0.5
    guidance: float = 1.0
    attribution: str = field(default="", repr=False)
    device: str = "cpu"
    slim: bool = False
    steps: int = BASELINE_STEPS
    scheduler: dict[str, Any] | None = field(default=None, repr=False)

    @cached_property
    def table(self) -> Table:
        """The baseline's sampler: the folder's own scheduler as configured; DDIM, uniform in t, for a module.

        Raises BadInput for a scheduler that no table can hold.
        """
        if self.scheduler is None:
            grid = times.GRIDS[BASELINE_GRID](self.schedule, self.steps)
            return solvers.SOLVERS[BASELINE_SOLVER](self.schedule, grid)
        return scheduler.table(self.scheduler, self.schedule, self.prediction, self.sigma_data, self.steps)

    @property
    def sampler_label(self) -> str:
        """The baseline's sampler for people: "DDIM 50 steps"."""
        if self.scheduler is None:
            return f"DDIM {self.steps} steps"
        return scheduler.label(self.scheduler, self.steps)

    def build(self) -> Target:
        """A fresh float32 target in eval mode, with the baseline's sampler."""
        module = self.module().eval().requires_grad_(False)
        own.fold_(module)
        if not self.slim:
            module = module.to(self.device)
        return Target(
            facts=facts(self, module),
            network=TorchNetwork(module, self.call),
            schedule=self.schedule,
            prediction=self.prediction,
            table=self.table,
            sigma_data=self.sigma_data,
            guidance=self.guidance,
        )

    @property
    def labels(self) -> list[int] | None:
        """The labels that samples are drawn for when no data tells how frequent each is."""
        if self.num_labels is None:
            return None
        return [label for label in range(self.num_labels) if label != self.null_label]

    def labels_of(self, data: Data | None) -> list[int] | None:
        """The labels that cases are drawn for: as frequent as in ``data`` where it has the model's, else all alike."""
        if self.num_labels is not None and data is not None and data.label_names == self.label_names:
            return list(data.labels.tolist())
        return self.labels


def load(
    source: str | Path | torch.nn.Module,
    *,
    schedule: Schedule | None = None,
    prediction: Prediction | None = None,
    shape: tuple[int, ...] | None = None,
    num_labels: int | None = None,
    null_label: int | None = None,
    call: Call | None = None,
    sigma_data: float = 0.5,
    guidance: float = 1.0,
    device: str = "cpu",
    steps: int = BASELINE_STEPS,
) -> Source:
    """A model as a :class:`Source`.

    A folder: a diffusers pipeline folder (``model_index.json``) or a ``UNet2DModel`` folder with its scheduler config;
    safetensors only; what it says of schedule, prediction and shape holds.  A module: pass ``schedule``
    (:mod:`hasten.diffusion.schedule`), ``prediction`` and the ``shape`` of one sample; it is called as
    ``module(x, time)``, with ``labels`` as a third argument when ``num_labels`` is given, or as ``call`` says, and
    asked once here.  It may take the time as floats or, of a discrete schedule, as whole numbers, and answer a tensor
    of its input's shape, or a tuple, dict or dataclass that holds it first, alone, or as ``sample``.  A
    ``UNet2DModel`` says its shape, its labels and how it is called itself.
    ``guidance`` other than 1 needs ``null_label``.  ``steps``, 1 to 1000, are those of the baseline's sampler:
    a folder's own scheduler as configured, DDIM for a module.

    Raises BadInput for whatever does not fit.
    """
    check_device(device)
    if not 1 <= steps <= 1000:
        raise BadInput(f"steps = {steps} is out of range; 1 to 1000")
    if isinstance(source, torch.nn.Module):
        if isinstance(source, UNet2DModel):
            shape, num_labels = shape or _unet_shape(source), num_labels or source.config["num_class_embeds"]
            call = call or call_unet
        if schedule is None or prediction is None or shape is None:
            raise BadInput("load(module): schedule, prediction and shape are needed; a module does not say them")
        if prediction not in PREDICTIONS:
            raise BadInput(f"load(module): prediction {prediction!r} is unknown{did_you_mean(prediction, PREDICTIONS)}")
        loaded = _from_module(source, schedule, prediction, tuple(shape), num_labels, null_label, call, sigma_data)
        loaded = replace(loaded, device=device, call=_settled(replace(loaded, device=device)))
    else:
        loaded = replace(_from_folder(Path(source)), steps=steps)
        if loaded.call is call_fourier:
            _check_times(loaded)
    if guidance != 1.0 and loaded.null_label is None:
        raise BadInput(f"{loaded.name}: guidance {guidance:g} needs a null label, and this model has none; use 1")
    return replace(loaded, guidance=guidance, device=device, steps=steps)


def with_weights(source: Source, weights: Mapping[str, torch.Tensor], weight_hash: str) -> Source:
    """``source``, a module of one's own, with other ``weights``, named and shaped as :func:`weights_of` gives them."""
    module = source.module()
    module.load_state_dict(dict(weights), strict=False)
    return replace(source, module=lambda: own.copied(module), weight_hash=weight_hash)


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All tensors of the state of ``module``, by name."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def load_slim(folder: Path, weights: str, guidance: float) -> Source:
    """A model folder without weights, whose hash was ``weights``."""
    return replace(_from_folder(folder, weights), guidance=guidance)


def name_of(folder: Path) -> str:
    """What a person calls the model in the absolute ``folder``: one that a run left there goes by the run's name, one
    in Hugging Face's cache by its repository's."""
    run = folder.parent
    if any((run / made).is_file() for made in ("run.json", "recipe.toml")):
        return run.name if folder.name == "model" else f"{run.name}/{folder.name}"
    if run.name == "snapshots" and run.parent.name.startswith("models--"):
        return run.parent.name.removeprefix("models--").replace("--", "/")
    return folder.name


def call_module(
    module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """``module(x, time)`` or ``module(x, time, labels)``."""
    output: torch.Tensor = module(x, time) if labels is None else module(x, time, labels)
    return output


def call_unet(
    module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """How diffusers' ``UNet2DModel`` is asked; of one that predicts a variance too, in the second half of its
    channels, without it (Nichol and Dhariwal 2021, arXiv:2102.09672, section 3.1)."""
    output: torch.Tensor = module(x, time, class_labels=labels, return_dict=False)[0]
    return output[:, : x.shape[1]] if output.shape[1] == 2 * x.shape[1] else output


def call_fourier(
    module: torch.nn.Module, x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """The same of one whose Fourier embedding takes the time's logarithm: timesteps under 1 are told as 1."""
    return call_unet(module, x, time.clamp(min=1.0), labels)


def files(folder: Path, weights: bool = True) -> list[Path]:
    """What of a model folder the model is built from, relative to it: configurations and weights, nothing else."""
    configurations = [*folder.glob("*.json"), *folder.glob("*/*.json")]
    return [path.relative_to(folder) for path in (*configurations, *read_folder(folder, weights).weight_files)]


def facts(source: Source, module: torch.nn.Module) -> Facts:
    """What the module is, counted."""
    leaves = Counter(type(m).__name__ for m in module.modules() if not any(True for _ in m.children()))
    tensors = list(module.parameters())
    return Facts(
        shape=source.shape,
        parameters=sum(p.numel() for p in tensors),
        weight_bytes=sum(p.numel() * p.element_size() for p in tensors),
        device=source.device,
        num_labels=source.num_labels,
        null_label=source.null_label,
        kinds=tuple(sorted(leaves.items())),
        upsamplers=len(upsamplers(module)),
    )


def _from_folder(folder: Path, slim: str = "") -> Source:
    """``slim``: the hash of the weights that are not there."""
    spec = read_folder(folder, weights=not slim)
    guard.check_memory(spec.least_bytes(1), str(folder))
    schedule, prediction = schedule_of(spec.scheduler)
    config = spec.network_config
    size = config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return Source(
        name=name_of(folder.resolve()),
        module=lambda: build_network(spec),
        call=call_fourier if config["time_embedding_type"] == "fourier" else call_unet,
        shape=(int(config["in_channels"]), int(height), int(width)),
        schedule=schedule,
        prediction=prediction,
        weight_hash=slim or weight_hash(spec.weight_files),
        slim=bool(slim),
        folder=folder,
        num_labels=config.get("num_class_embeds"),
        null_label=spec.extra.get("null_label"),
        label_names=tuple(spec.extra.get("label_names", ())),
        sigma_data=float(spec.scheduler.get("sigma_data", 0.5)),
        scheduler=spec.scheduler,
        attribution=str(spec.extra.get("attribution", "")),
    )


def _from_module(
    module: torch.nn.Module,
    schedule: Schedule,
    prediction: Prediction,
    shape: tuple[int, ...],
    num_labels: int | None,
    null_label: int | None,
    call: Call | None,
    sigma_data: float,
) -> Source:
    pristine = own.copied(module).cpu().float().eval()
    return Source(
        name=type(module).__name__,
        module=lambda: own.copied(pristine),
        call=call or call_module,
        shape=shape,
        schedule=schedule,
        prediction=prediction,
        weight_hash=_digest(weights_of(pristine)),
        num_labels=num_labels,
        null_label=null_label,
        sigma_data=sigma_data,
    )


def _settled(source: Source) -> Call:
    """How the module of ``source`` is asked, by asking it once: two samples, in the middle and at the end of time."""
    guard.check_memory(4 * 4 * math.prod(source.shape), f"{source.name}: two samples of shape {source.shape}")
    target = source.build()
    assert target.module is not None
    rng = torch.Generator().manual_seed(seed_of(Purpose.TRIAL))
    x = torch.randn((2, *source.shape), generator=rng).to(source.device)
    told = torch.as_tensor(source.schedule.network_time([0.5, 1.0]), dtype=torch.float32, device=source.device)
    labels = None if source.num_labels is None else torch.zeros(2, dtype=torch.int64, device=source.device)
    with torch.no_grad():
        return own.settled(target.module, source.call, x, told, labels, source.schedule.timesteps is not None)


def _check_times(source: Source) -> None:
    """Raise BadInput where the baseline's sampler asks at times that diffusers' own network answers with NaN."""
    told = source.schedule.network_time(source.table.times)
    if told.min() < 1.0:
        raise BadInput(
            f"{source.name}: its Fourier embedding takes the logarithm of the time, and {source.sampler_label} ask at "
            f"{told.min():.3g}; use a scheduler that ends at 1 or later (timestep_spacing trailing), or "
            "another number of steps"
        )


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _unet_shape(network: UNet2DModel) -> tuple[int, ...] | None:
    """Of one sample, as far as its config says it."""
    size = network.config["sample_size"]
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return int(network.config["in_channels"]), int(height), int(width)
