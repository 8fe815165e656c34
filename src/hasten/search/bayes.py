"""Bayesian search: Optuna's tree-structured Parzen estimator under a pure function.

``ask(space, history, seed)`` knows nothing but its arguments: the study is built again from the history each time, so
to resume is to read the history again (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hasten.search.space import Point, Space, key


@dataclass(frozen=True)
class Trial:
    """A point, its value (lower is better; None when it failed) and whatever was measured."""

    point: Point
    value: float | None
    measured: dict[str, Any]


def ask(space: Space, history: Sequence[Trial], seed: int) -> Point | None:
    """The point to try next, never one of ``history``; None when every point was tried."""
    tried = {key(trial.point) for trial in history}
    if len(tried) >= len(space):
        return None
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed + len(history), n_startup_trials=4)
    study = optuna.create_study(sampler=sampler)
    distributions = {name: optuna.distributions.CategoricalDistribution(values) for name, values in space.dimensions}
    for trial in history:
        if trial.value is not None and space.holds(trial.point):
            study.add_trial(
                optuna.trial.create_trial(params=trial.point, distributions=distributions, value=trial.value)
            )
    for _ in range(20):
        point: Point = study.ask(distributions).params
        if key(point) not in tried:
            return point
    return next(point for point in space.points() if key(point) not in tried)
