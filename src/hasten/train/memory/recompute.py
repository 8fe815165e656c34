"""What to recompute so that a training step fits a memory budget, from what each block was measured to keep and cost.

Live bytes of a step whose blocks ``C`` are checkpointed, as the backward pass reaches block ``i`` (the last first)::

    kept + outside + sum_{j <= i, j not in C} saved_j + [i in C] saved_i + sum_{j > i} gradient_j + transient

Its largest value is the peak; gradients that stay from one micro-batch to the next are all there all the time, and
those that a step fused into backward uses at once, never.  The cheapest ``C`` under a budget is found
exactly, on bytes in steps of a thousandth.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hasten import guard
from hasten.errors import BadInput
from hasten.files import size
from hasten.measure.allocations import Tracker
from hasten.train.memory.checkpointing import blocks

STEPS = 1000
TIMED = 2
Gradients = Literal["grow", "stay", "used"]


@dataclass(frozen=True)
class BlockCost:
    """What a block keeps for the backward pass besides its input, the bytes of its weights' gradients, and the seconds
    of its forward pass."""

    name: str
    saved_bytes: int
    gradient_bytes: int
    forward_seconds: float


@dataclass(frozen=True)
class Costs:
    """``blocks`` in the order in which they run; ``outside_bytes``: what else is kept for the backward pass;
    ``outside_gradient_bytes``: gradients of weights outside of blocks; ``transient_bytes``: what the peak has beyond
    the sum and that grows with the batch, ``fixed_bytes``: what does not; ``seconds`` of forward and backward."""

    blocks: tuple[BlockCost, ...]
    outside_bytes: int
    outside_gradient_bytes: int
    transient_bytes: int
    seconds: float
    fixed_bytes: int = 0

    @property
    def gradient_bytes(self) -> int:
        """Of all weights."""
        return self.outside_gradient_bytes + sum(block.gradient_bytes for block in self.blocks)

    def scaled(self, factor: float) -> Costs:
        """Those of a batch ``factor`` times as large."""
        rows = (
            replace(
                block,
                saved_bytes=round(block.saved_bytes * factor),
                forward_seconds=block.forward_seconds * factor,
            )
            for block in self.blocks
        )
        return replace(
            self,
            blocks=tuple(rows),
            outside_bytes=round(self.outside_bytes * factor),
            transient_bytes=round(self.transient_bytes * factor),
            seconds=self.seconds * factor,
        )


@dataclass(frozen=True)
class Choice:
    """The blocks to checkpoint, the peak bytes of a step then, and the seconds that it takes longer."""

    names: tuple[str, ...]
    peak_bytes: int
    extra_seconds: float


def measure(
    module: torch.nn.Module, forward: Callable[[], torch.Tensor], clock: Callable[[], float] = time.perf_counter
) -> Costs:
    """Run ``forward()``, which asks ``module`` and returns the loss of a batch, a few times, and backward.

    Gradients are dropped.  Waits for the device, where that is a GPU.
    """
    parts = blocks(module)
    tracker = Tracker(None, {"weights": [*module.parameters(), *module.buffers()]})
    with tracker.following():
        forward().backward()  # type: ignore[no-untyped-call]
    _drop(module)
    passes = [_timed(module, parts, forward, clock) for _ in range(TIMED)]
    seconds = {name: min(each[name] for _, each in passes) for name in passes[0][1]}  # what else runs only adds
    saved, outside = _saved(module, parts, forward)
    rows = tuple(
        BlockCost(name, saved[name], sum(p.nbytes for p in parts[name].parameters()), taken)
        for name, taken in seconds.items()
    )
    held = sum(each.nbytes for each in (*module.parameters(), *module.buffers()))
    gradients = sum(p.nbytes for p in module.parameters()) - sum(row.gradient_bytes for row in rows)
    plain = Costs(rows, outside, gradients, 0, min(whole for whole, _ in passes))
    return replace(plain, transient_bytes=tracker.found().peak_bytes - peak_bytes(plain, (), held))


def with_workspace(costs: Costs, samples: int, once_bytes: int, grown: Mapping[int, int]) -> Costs:
    """``costs`` of a batch of ``samples``, with what no tensor shows: what operators allocate for themselves, and the
    gaps in memory between what is alive.

    ``once_bytes``: what the first pass of a process took more.  ``grown``: by how many bytes the process grew in steps
    of so many samples, for one number of them or two, nothing checkpointed.
    """
    seen = sorted((n, bytes_ - peak_bytes(costs.scaled(n / samples), (), 0)) for n, bytes_ in grown.items())
    (few, first), (more, last) = seen[0], seen[-1]
    each = max((last - first) / (more - few) if more > few else first / few, 0.0)
    fixed = max(round(first - each * few), 0) + once_bytes
    return replace(costs, transient_bytes=costs.transient_bytes + round(each * samples), fixed_bytes=fixed)


def grown_bytes(device: torch.device, run: Callable[[], Any]) -> int | None:
    """How far memory rises while ``run()`` runs: the allocator's on CUDA, else the process's resident memory.

    None where the system does not tell (it does on Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # or memory that was used before and is kept for later would hide the growth
    reset.write_text("5")  # the peak begins anew
    before = _kibibytes(status, "VmRSS")
    run()
    return (_kibibytes(status, "VmHWM") - before) * 1024


def available_bytes(device: torch.device) -> int:
    """What the machine, or the GPU, has free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return guard.free_memory_bytes()


def _kibibytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(f"{key}:"))


def _timed(
    module: torch.nn.Module,
    parts: dict[str, torch.nn.Module],
    forward: Callable[[], torch.Tensor],
    clock: Callable[[], float],
) -> tuple[float, dict[str, float]]:
    """The seconds of a forward and backward pass, and of each block's forward, in the order in which they run."""
    device = next(module.parameters()).device
    seconds: dict[str, float] = {}
    starts: list[float] = []
    handles: list[Any] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    for name, part in parts.items():
        handles.append(part.register_forward_pre_hook(lambda *_: starts.append(now())))

        def leave(*_: Any, name: str = name) -> None:
            seconds[name] = seconds.get(name, 0.0) + now() - starts.pop()

        handles.append(part.register_forward_hook(leave))
    began = now()
    forward().backward()  # type: ignore[no-untyped-call]
    whole = now() - began
    for handle in handles:
        handle.remove()
    _drop(module)
    return whole, seconds


def peak_bytes(costs: Costs, names: Collection[str], kept_bytes: int, gradients: Gradients = "grow") -> int:
    """The peak of a step with the blocks ``names`` checkpointed.

    ``kept_bytes``: weights, moments, averages, batch.  ``gradients``: ``grow`` in the backward pass, ``stay`` from
    micro-batch to micro-batch, or are ``used`` at once.
    """
    plain, later = 0, [block.gradient_bytes if gradients == "grow" else 0 for block in costs.blocks]
    live = []
    for number, block in enumerate(costs.blocks):
        again = block.name in names
        plain += 0 if again else block.saved_bytes
        live.append(plain + (block.saved_bytes if again else 0) + sum(later[number + 1 :]))
    everything = costs.gradient_bytes if gradients == "stay" else 0
    beyond = costs.outside_bytes + costs.transient_bytes + costs.fixed_bytes
    return kept_bytes + beyond + everything + max(live, default=0)


def choose(costs: Costs, kept_bytes: int, budget_bytes: int, gradients: Gradients = "grow") -> Choice:
    """The set of blocks that costs the fewest seconds with its peak under the budget.

    Raises BadInput, with the least peak that there is and what else to change, when there is none.
    """
    room = budget_bytes - peak_bytes(replace(costs, blocks=()), (), kept_bytes, gradients)
    if gradients == "stay":
        room -= sum(block.gradient_bytes for block in costs.blocks)
    names = _cheapest(costs.blocks, room, gradients == "grow")
    if names is None:
        everything = peak_bytes(costs, [block.name for block in costs.blocks], kept_bytes, gradients)
        raise BadInput(
            f"train.memory: {size(budget_bytes)}; a step takes {size(everything)} at least, with "
            "every block recomputed; raise train.memory, or train.accumulate, or lower train.batch_size, or set "
            "train.step_in_backward"
        )
    extra = sum(block.forward_seconds for block in costs.blocks if block.name in names)
    return Choice(names, peak_bytes(costs, names, kept_bytes, gradients), extra)


def _cheapest(blocks: tuple[BlockCost, ...], room: int, grow: bool) -> tuple[str, ...] | None:
    """The blocks to checkpoint so that at no time more than ``room`` bytes are kept, None when that is impossible.

    Block by block, for each amount that is kept so far (rounded up), the fewest seconds that lead there.  A block needs
    room for what it keeps either way: in the forward pass, or when it runs again.
    """
    if room < 0:
        return None
    unit = max(room / STEPS, 1.0)
    amounts = np.arange(STEPS + 1)
    least = np.where(amounts == 0, 0.0, np.inf)
    plain: list[NDArray[np.bool_]] = []
    for number, block in enumerate(blocks):
        later = sum(each.gradient_bytes for each in blocks[number + 1 :]) if grow else 0
        size = math.ceil(block.saved_bytes / unit)
        least = np.where(amounts * unit + block.saved_bytes + later <= room, least, np.inf)
        kept = np.full(STEPS + 1, np.inf)
        kept[size:] = least[: max(STEPS + 1 - size, 0)]
        again = least + block.forward_seconds
        plain.append(kept < again)
        least = np.minimum(kept, again)
    if not np.isfinite(least).any():
        return None
    amount, names = int(least.argmin()), []
    for block, kept_here in zip(reversed(blocks), reversed(plain), strict=True):
        if kept_here[amount]:
            amount -= math.ceil(block.saved_bytes / unit)
        else:
            names.append(block.name)
    return tuple(reversed(names))


def _saved(
    module: torch.nn.Module, parts: dict[str, torch.nn.Module], forward: Callable[[], torch.Tensor]
) -> tuple[dict[str, int], int]:
    """Bytes that each block alone keeps for the backward pass, and all other bytes that are kept.

    Weights are not counted, nor are a block's inputs, which stay when it is checkpointed; storages count once.
    """
    inside: list[str] = []
    holders: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    alive: list[torch.UntypedStorage] = []  # so that no storage gets the address of another
    inputs: dict[str, set[int]] = {name: set() for name in parts}
    weights = {each.untyped_storage().data_ptr() for each in (*module.parameters(), *module.buffers())}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place not in weights:
            if place not in sizes:
                alive.append(storage)
            sizes[place] = storage.nbytes()
            holders.setdefault(place, set()).add(inside[-1] if inside else "")
        return tensor

    handles = []
    for name, part in parts.items():

        def enter(_: Any, args: Any, kwargs: Any, name: str = name) -> None:
            inside.append(name)
            tensors = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
            inputs[name] |= {each.untyped_storage().data_ptr() for each in tensors}

        handles.append(part.register_forward_pre_hook(enter, with_kwargs=True))
        handles.append(part.register_forward_hook(lambda *_: inside.pop() and None))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    for handle in handles:
        handle.remove()
    del loss
    saved = dict.fromkeys(parts, 0)
    outside = 0
    for place, names in holders.items():
        owner = next(iter(names))
        if len(names) == 1 and owner and place not in inputs[owner]:
            saved[owner] += sizes[place]
        else:
            outside += sizes[place]
    return saved, outside


def _drop(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None
