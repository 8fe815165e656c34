"""The recurrence that a table stores is the dense form that its solver wrote, also after many steps."""

from __future__ import annotations

import numpy as np
import pytest

from hasten.diffusion import schedule, solvers, table, times
from hasten.diffusion.table import Array, Rows, Table


def built(solver: str, noise_schedule: schedule.Schedule, t: Array, monkeypatch: pytest.MonkeyPatch) -> tuple:
    """The solver's dense rows (over starting noise, predictions, fresh noise) and its table."""
    kept: list[Array] = []
    original = Rows.table

    def spy(self: Rows, x: Array) -> Table:
        kept.extend([*self.rows, x])
        return original(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "table", spy)
        result = solvers.SOLVERS[solver](noise_schedule, t)
    return np.array(kept), result


@pytest.mark.parametrize("grid", ["uniform", "karras"])
@pytest.mark.parametrize("kind", ["cosine", "edm"])
@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_recurrence_equals_dense_form(solver: str, kind: str, grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise_schedule = {"cosine": schedule.cosine, "edm": schedule.edm}[kind]()
    dense, made = built(solver, noise_schedule, times.GRIDS[grid](noise_schedule, 200), monkeypatch)
    n = made.evaluations
    rng = np.random.default_rng(0)
    noise, fresh = rng.standard_normal(5), rng.standard_normal((n + 1, 5))
    answers: list[Array] = []
    basis = np.zeros((1 + 2 * n + 1, 5))
    basis[0], basis[1 + n :] = noise, fresh

    def denoise(x: Array, t: float) -> Array:
        k = len(answers)
        wanted = dense[k] @ basis  # made from the predictions so far: what the recurrence must have carried in x
        assert x == pytest.approx(wanted, rel=1e-8, abs=1e-8)
        answers.append(np.tanh(wanted + np.sin(k)))
        basis[1 + k] = answers[-1]
        return answers[-1]

    result = table.run(made, denoise, noise, fresh=lambda row: fresh[row])
    assert len(answers) == n
    assert result == pytest.approx(dense[n] @ basis, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_a_constant_prediction_is_the_result(solver: str) -> None:
    """Every row's weights over a constant D sum so that alpha * D and the ODE's share of noise come out."""
    cosine = schedule.cosine()
    t = times.uniform(cosine, 12)
    made = solvers.SOLVERS[solver](cosine, t)
    result = table.run(made, lambda x, t: np.full(3, 0.7), np.array([1.0, -2.0, 0.0]), fresh=lambda row: np.zeros(3))
    assert result == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize(
    ("solver", "most"),
    [("ddim", 1), ("heun", 2), ("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc_2", 3), ("unipc", 4), ("ddpm", 1)],
)
def test_solvers_of_data_history_keep_few_predictions(solver: str, most: int) -> None:
    cosine = schedule.cosine()
    made = solvers.SOLVERS[solver](cosine, times.uniform(cosine, 30))
    assert max(len(made.needed(row)) for row in range(made.evaluations + 1)) == most
