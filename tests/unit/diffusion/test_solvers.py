from __future__ import annotations

import numpy as np
import pytest

from hasten.diffusion import schedule, solvers, times
from hasten.errors import BadInput

COSINE = schedule.cosine()


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_name_label_and_count(solver: str) -> None:
    made = solvers.SOLVERS[solver](COSINE, times.karras(COSINE, 7))
    assert made.name == ("ddim" if solver == "euler" else solver)
    assert made.evaluations == solvers.evaluations(solver, 7) == (13 if solver == "heun" else 7)
    assert solvers.LABELS.keys() == solvers.SOLVERS.keys()


@pytest.mark.parametrize("count", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("grid", times.GRIDS)
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_sampler_has_the_evaluations_asked_for(solver: str, grid: str, count: int) -> None:
    made = solvers.sampler(COSINE, solver, grid, count)
    assert made.evaluations == (count - (count + 1) % 2 if solver == "heun" else count)
    assert np.all(np.isfinite(made.predictions))


@pytest.mark.parametrize(
    ("solver", "grid", "count", "message"),
    [
        ("unipcc", "karras", 5, "did you mean 'unipc'"),
        ("unipc", "karas", 5, "did you mean 'karras'"),
        ("unipc", "karras", 0, "at least 1"),
        ("unipc", "trailing", 5000, "only 991 timesteps"),
    ],
)
def test_bad_requests(solver: str, grid: str, count: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        solvers.sampler(COSINE, solver, grid, count)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_the_last_step_to_zero_forgets_the_noise(solver: str) -> None:
    made = solvers.sampler(COSINE, solver, "karras", 9)
    assert abs(made.state[-1]) < 1e-9
    if solver not in ("heun", "ipndm", "unipc"):  # of order 1: the last prediction itself
        assert made.predictions[-1] == pytest.approx(np.eye(9)[-1], abs=1e-12)


def test_heun_may_end_above_zero() -> None:
    made = solvers.SOLVERS["heun"](COSINE, np.array([0.9, 0.5, 0.1]))
    assert made.evaluations == 4
