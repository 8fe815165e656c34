"""What a recipe's step would take, choice by choice: predicted from one measurement, then run to see how far off.

The choices are those that change memory and time but not what is learnt, up to rounding: micro-batches, recomputation
(none, all blocks, the recipe's own), the step fused into backward where the recipe's clipping allows it, and the
average in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch

from hasten.data.array import Data
from hasten.data.loader import Batch
from hasten.errors import BadInput
from hasten.model.source import Source
from hasten.train import choices, inputs, network, rehearsal, training
from hasten.train import recipe as recipes
from hasten.train.memory import checkpointing, recompute
from hasten.train.recipe import Recipe
from hasten.train.rehearsal import Measured

ACCUMULATE = (1, 2, 4, 8)


@dataclass(frozen=True)
class Row:
    """One choice: what it ``changes`` in [train], the peak bytes of a step over what the process held before it, and
    its seconds; ``measured`` by running it, None before."""

    changes: dict[str, Any]
    peak_bytes: int
    seconds: float
    measured: Measured | None = None

    @property
    def label(self) -> str:
        """The changes as a recipe has them."""
        return ", ".join(f"{key} = {_toml(value)}" for key, value in self.changes.items()) or "as it is"

    @property
    def off(self) -> float | None:
        """How far off the predicted peak was, as a share of the measured one."""
        return None if self.measured is None else self.peak_bytes / self.measured.peak_bytes - 1.0


def rows(recipe: Recipe) -> Iterator[Row]:
    """Predictions, the recipe as it is first."""
    data, _ = inputs.dataset(recipe)
    source = network.source_of(recipe, data)
    data = network.labelled(data, source)
    batch = inputs.loader(recipe, data).batch(0)
    base = _changed(recipe, {"autotune": False})
    run = training.prepare(_changed(base, {"checkpointing": "none", "memory": None}), data, None, source, {})
    costs = choices.costs(run, batch)  # of one micro-batch of the recipe as it is
    each = costs.scaled(base.train.accumulate)  # of the whole batch in one
    overhead = _step_seconds(run)
    for changes in _choices(base):
        yield _row(_changed(base, changes), changes, data, source, batch, each, overhead)


def measured(recipe: Recipe, found: list[Row], progress: Callable[[str], None]) -> Iterator[Row]:
    """The rows once more, each with what it took in a process of its own."""
    for row in found:
        progress(row.label)
        yield replace(row, measured=rehearsal.measure(_changed(recipe, {"autotune": False, **row.changes})))


def _choices(recipe: Recipe) -> Iterator[dict[str, Any]]:
    options = recipe.train
    yield {}
    for count in ACCUMULATE:
        for recomputed in ("none", "full"):
            changes: dict[str, Any] = {"accumulate": count, "checkpointing": recomputed}
            if options.memory is not None:
                changes["memory"] = None
            own = (options.accumulate, options.checkpointing, options.memory)
            if options.batch_size % count == 0 and own != (count, recomputed, None):
                yield changes
    if options.clip_norm == 0 and not options.step_in_backward and options.clip_zscore is None:
        yield {"step_in_backward": True}
    if options.ema_dtype == "float32":
        yield {"ema_dtype": "bfloat16"}


def _row(
    recipe: Recipe,
    changes: dict[str, Any],
    data: Data,
    source: Source,
    batch: Batch,
    costs: recompute.Costs,
    overhead: float,
) -> Row:
    options = recipe.train
    part = costs.scaled(1.0 / options.accumulate)
    run = training.prepare(_changed(recipe, {"memory": None}), data, None, source, {})
    kept, how = choices.kept_bytes(run, batch), choices.gradients(recipe)
    names: list[str] = list(checkpointing.blocks(run.network)) if options.checkpointing == "full" else []
    if isinstance(options.checkpointing, list):
        names = options.checkpointing
    if recipe.budget_bytes is not None:
        names = list(recompute.choose(part, kept, recipe.budget_bytes, how).names)
    extra = sum(block.forward_seconds for block in part.blocks if block.name in names)
    seconds = options.accumulate * (part.seconds + extra) + overhead
    return Row(changes, recompute.peak_bytes(part, names, kept, how), seconds)


def _step_seconds(run: training.Training) -> float:
    """The optimiser's step, with gradients of ones: the second of two, since the first makes its state."""
    for parameter in run.state.named.values():
        parameter.grad = torch.ones_like(parameter)
    taken = 0.0
    for _ in range(2):
        began = perf_counter()
        for optimizer in run.state.optimizers:
            optimizer.step()
        taken = perf_counter() - began
    return taken


def _changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """``recipe`` with other keys in [train], checked again."""
    values = recipe.model_dump(exclude_defaults=True)
    values["train"] |= changes
    try:
        return recipes.check(values, "", "recipe")
    except BadInput as error:
        raise BadInput(f"no step can be planned: {error}") from error


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
