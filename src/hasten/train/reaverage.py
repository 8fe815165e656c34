"""A model folder of another average than the run's own: its length is chosen after training, by held-out loss or hand.

The run has to have kept profiles (``ema_profiles`` in its recipe; :mod:`hasten.train.weights.posthoc`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hasten import guard
from hasten.errors import BadInput
from hasten.train import inputs, network, training
from hasten.train import recipe as recipes
from hasten.train.validate import Validator
from hasten.train.weights import normalise, posthoc

LENGTHS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.13, 0.17, 0.21, 0.25)
WORST_ERROR = 0.2  # of a profile that is said to be reconstructed, relative


@dataclass(frozen=True)
class Length:
    """An average's length ``sigma_rel``, the relative error of its profile, and its held-out loss."""

    sigma_rel: float
    error: float
    loss: float


def reaverage(
    folder: Path,
    out: Path,
    sigma_rel: float | None = None,
    step: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Length]:
    """Write the model in the run's ``folder`` with the average of length ``sigma_rel`` to ``out``.

    Without a length, that of the lowest held-out loss among LENGTHS, as far as the snapshots can make them.  ``step``:
    the average after so many steps, the last by default.  Returns what was tried, the one that was taken first.  Raises
    BadInput for a folder without a run or without snapshots, an ``out`` that is there, and a length that can't be made.
    """
    with guard.making(out) as made:
        return _reaverage(folder, made, sigma_rel, step, progress)


def _reaverage(
    folder: Path, out: Path, sigma_rel: float | None, step: int | None, progress: Callable[[str], None]
) -> list[Length]:
    about = folder / "run.json"
    try:
        text = json.dumps(json.loads(about.read_text(encoding="utf-8"))["recipe"])
        recipe = recipes.Recipe.model_validate_json(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} holds no training run ({error}); pass a folder that hasten train wrote") from error
    kept = posthoc.snapshots(folder / "averages")
    if not kept:
        raise BadInput(f"{folder} kept no averages; train with ema_profiles = [0.05, 0.1]")
    last = step or max(each.step for each in kept)
    wanted = LENGTHS if sigma_rel is None else (sigma_rel,)
    errors = posthoc.nearest(kept, last, wanted)
    possible = {each: off for each, off in errors.items() if off <= WORST_ERROR}
    if not possible:
        raise BadInput(
            f"{folder}: no average of length {', '.join(f'{each:g}' for each in wanted)} can be made of what was kept "
            f"(off by {min(errors.values()):.0%} at least); choose one between the recipe's ema_profiles"
        )
    data, _ = inputs.dataset(recipe)
    source = network.source_of(recipe, data)
    data = network.labelled(data, source)
    validator = Validator(source, data, recipe.train.validate_samples, recipe.train.seed)
    objective = training.objective(recipe, source)
    tried = []
    for each, off in possible.items():
        progress(f"sigma_rel {each:g}")
        weights = normalise.folded(posthoc.reconstruct(kept, last, each))
        found = validator.validate(network.target_of(source, weights), objective, sample=False)
        tried.append(Length(each, off, found.loss))
    tried.sort(key=lambda length: length.loss)
    weights = normalise.folded(posthoc.reconstruct(kept, last, tried[0].sigma_rel))
    network.save_model(source, source.module(), weights, recipe, data, out)
    return tried
