"""The parts of a profile, each as plain values; what an engine can't answer is a note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from hasten.diffusion import table as tables
from hasten.errors import MissingExtra
from hasten.measure import allocations, damage, ops, python
from hasten.measure.clock import Clock
from hasten.measure.profile import modules
from hasten.measure.roofline import Peaks
from hasten.measure.steps import profile_steps
from hasten.model.target import Target, TorchNetwork
from hasten.model.workload import Case
from hasten.runtime import openvino
from hasten.story.bottleneck import headline
from hasten.technique.quantize import calibration_states
from hasten.train.step import TrainStep

DAMAGE_IMAGES, DAMAGE_STATES, LEAST_DB = 6, 4, 30.0
FEWEST_REPEATS, MOST_REPEATS, REPEATED_SECONDS = 3, 9, 8.0
PYTHON_ROWS = 40
PHASES = ("forward", "backward", "update")


@dataclass(frozen=True)
class Asked:
    """What is profiled: a fresh target and, when it is trained, its step; one case; the machine's peaks."""

    target: Target
    step: TrainStep | None
    case: Case
    evaluations: int
    cold_seconds: float
    warm_seconds: float
    peaks: Peaks
    clock: Clock
    out: Path | None
    notes: list[str]

    @property
    def module(self) -> torch.nn.Module | None:
        """The module that hooks can see into; None once it is compiled or another engine has taken over."""
        module = self.target.module
        return None if module is None or hasattr(module, "_orig_mod") else module

    def evaluate(self) -> object:
        """One evaluation of the network: at the middle of the sampler's times, or of a training step's batch."""
        if self.step is not None:
            return self.step.forward(self.case)
        return self.target.evaluate(self.case)

    def run(self) -> object:
        """A sample, or a training step."""
        return (self.step or self.target).sample(self.case)


def by_operator(asked: Asked) -> dict[str, Any]:
    """One evaluation by module and by operator."""
    network, result = asked.target.network, {}
    if isinstance(network, openvino.Network):
        asked.notes.append("the engine is OpenVINO: module hooks can't see inside; rows are by the engine's counters")
        return {"engine": by_engine(network, asked.case)}
    module = asked.module
    if module is None:
        asked.notes.append("the network is compiled: module hooks can't see inside; rows are by operator only")
    else:
        affordable = int(REPEATED_SECONDS / (2 * asked.warm_seconds))
        repeats = min(max(affordable, FEWEST_REPEATS), MOST_REPEATS)
        found = modules(asked.evaluate, module, repeats, asked.peaks, asked.clock)
        result = {"modules": asdict(found), "headline": headline(found.kinds, asked.peaks)}
    call = asked.evaluate if asked.step is None else asked.run
    operators = ops.ops(call, 3, asked.peaks, asked.clock)
    if asked.out is not None:
        ops.trace(call, module, asked.out / "trace.json", asked.clock.device)
    return {**result, "ops": asdict(operators)}


def by_damage(asked: Asked) -> dict[str, Any]:
    """What INT8 does to the output, by layer and noise level, on states of the sampler's own trajectories."""
    module = asked.module
    if module is None or asked.step is not None:
        asked.notes.append(
            "damage is measured in torch, on a network that samples; name the model folder, and don't train"
        )
        return {}
    states = calibration_states(asked.target, DAMAGE_IMAGES)
    states.sort(key=lambda state: -float(state[1]))  # from noise to sample
    each = len(states) // len(damage.LEVELS)
    places = [round(i * (each - 1) / (DAMAGE_STATES - 1)) for i in range(DAMAGE_STATES)]
    chosen = [states[level * each + place] for level in range(len(damage.LEVELS)) for place in places]
    x, times, *labels = (torch.cat(parts) for parts in zip(*chosen, strict=True))
    network = asked.target.network
    layers = damage.damage(module, lambda: network(x, times, labels[0] if labels else None))
    kept, whole = damage.worth_keeping(layers, LEAST_DB), sum(layer.multiplications for layer in layers)
    rows = [
        {
            "name": layer.name,
            "share": layer.multiplications / whole,
            "decibels": [damage.decibel(share) for share in layer.damages],
            "kept": layer.name in kept,
        }
        for layer in layers
    ]
    return {"damage": {"levels": damage.LEVELS, "least_db": LEAST_DB, "rows": rows}}


def by_engine(network: openvino.Network, case: Case) -> list[dict[str, Any]]:
    """Rows by kind of operation, as the engine counts them, the costliest first."""
    kinds = openvino.profile(network, case.noise, case.labels)
    whole = sum(seconds for _, seconds in kinds.values())
    rows = [{"name": k, "calls": calls, "seconds": s, "share": s / whole} for k, (calls, s) in kinds.items()]
    return sorted(rows, key=lambda row: -float(row["seconds"]))


def by_step(asked: Asked) -> dict[str, Any]:
    """The sampling loop, evaluation by evaluation; of a training step its three parts."""
    if asked.step is not None:
        return {"phases": by_phase(asked.step, asked.case, asked.clock)}
    found = profile_steps(asked.target, asked.case, asked.clock)
    derived = {"first_seconds": found.first_seconds, "steady_seconds": found.steady_seconds, "overhead": found.overhead}
    return {"steps": asdict(found) | derived | {"cold_seconds": asked.cold_seconds}}


def by_phase(step: TrainStep, case: Case, clock: Clock) -> dict[str, Any]:
    """Median seconds of forward, backward and update, each waited for, and of whole steps in turn with them."""
    taken: dict[str, list[float]] = {phase: [] for phase in PHASES}
    wholes = []
    for _ in range(3):
        seconds, errors = clock.time(lambda: step.forward(case))
        taken["forward"].append(seconds)
        taken["backward"].append(clock.time(partial(step.backward, errors))[0])
        taken["update"].append(clock.time(step.update)[0])
        del errors
        wholes.append(clock.time(lambda: step.sample(case))[0])
    medians = {phase: median(seconds) for phase, seconds in taken.items()}
    return {"seconds": medians, "whole_seconds": median(wholes), "overhead": sum(medians.values()) / median(wholes)}


def by_python(asked: Asked) -> dict[str, Any]:
    """Python by function and by line."""
    plain = asked.clock.time(asked.run)[0]
    seconds, functions = asked.clock.time(lambda: python.functions(asked.run))
    result: dict[str, Any] = {
        "plain_seconds": plain,
        "functions": [asdict(row) for row in functions[:PYTHON_ROWS]],
        "functions_overhead": seconds / plain,
        "lines": None,
        "lines_overhead": None,
    }
    try:
        seconds, lines = asked.clock.time(lambda: python.lines(asked.run, watched(asked)))
    except MissingExtra as error:
        asked.notes.append(f"no lines of Python: {error}")
    else:
        plain = median([plain, asked.clock.time(asked.run)[0]])
        result |= {"lines": [asdict(row) for row in lines], "lines_overhead": seconds / plain}
    return {"python": result}


def watched(asked: Asked) -> Sequence[Callable[..., Any]]:
    """The loop's own functions, whose lines are worth reading."""
    if asked.step is not None:
        return (TrainStep.sample, TrainStep.forward, TrainStep.backward, TrainStep.update)
    return (tables.run, Target.sample, Target.denoise, Target._clean)


def by_memory(asked: Asked) -> dict[str, Any]:
    """Live tensors and resident memory over time, and what held the peak."""
    step, module = asked.step, asked.target.module
    cuda = asked.clock.device.type == "cuda"
    if step is not None:
        step.optimizer.zero_grad(set_to_none=True)
    if cuda:
        torch.cuda.reset_peak_memory_stats(asked.clock.device)
    with allocations.Resident() as resident:
        plain = asked.clock.time(asked.run)[0]
    allocator_peak = torch.cuda.max_memory_allocated(asked.clock.device) if cuda else None
    if not isinstance(asked.target.network, TorchNetwork):
        asked.notes.append("the engine's own memory shows as resident memory only; live tensors are the loop's")
    held: dict[str, list[torch.Tensor]] = {"inputs": [asked.case.noise]}
    if module is not None:
        held["weights"] = [*module.parameters(), *module.buffers()]
    if step is not None:
        step.optimizer.zero_grad(set_to_none=True)
        held["optimiser state"] = [
            value for state in step.optimizer.state.values() for value in state.values() if torch.is_tensor(value)
        ]
    tracker = allocations.Tracker(asked.module, held)
    with tracker.following():
        seconds = asked.clock.time((lambda: phases(step, asked.case, tracker)) if step is not None else asked.run)[0]
    if step is not None:
        gradients = [parameter.grad for parameter in step.module.parameters() if parameter.grad is not None]
        tracker.relabel("gradients", gradients)
    return {
        "memory": {
            **asdict(tracker.found()),
            "resident": resident.timeline,
            "resident_peak_bytes": resident.peak_bytes,
            "allocator_peak_bytes": allocator_peak,
            "plain_seconds": plain,
            "overhead": seconds / plain,
        }
    }


def phases(step: TrainStep, case: Case, tracker: allocations.Tracker) -> None:
    """A training step that says where it is."""
    tracker.enter("forward")
    errors = step.forward(case)
    tracker.enter("backward")
    step.backward(errors)
    tracker.enter("update")
    step.update()
