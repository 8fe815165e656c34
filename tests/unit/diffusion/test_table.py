from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hasten.diffusion import schedule, solvers, table, times
from hasten.diffusion.table import Rows, Table
from hasten.errors import BadInput

COSINE = schedule.cosine()


def made(solver: str, steps: int = 9) -> Table:
    return solvers.SOLVERS[solver](COSINE, times.logsnr(COSINE, steps))


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_only_ddpm_adds_noise(solver: str) -> None:
    assert made(solver).stochastic == (solver == "ddpm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.ones(1)}, "other lengths"),
        ({"fresh": np.array([0.0, float("nan")] + [0.0] * 8)}, "not finite"),
        ({"predictions": np.ones((10, 9))}, "does not exist yet"),
        ({"predictions": np.eye(10, 9)}, "does not exist yet"),
    ],
)
def test_what_is_no_table(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        replace(made("ddim"), **change)


@pytest.mark.parametrize("solver", solvers.SOLVERS)
def test_needed_is_all_that_is_needed_and_no_more(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that keeps everything gives the same; and each prediction that a row keeps is used there or later."""
    one = made(solver)
    noise = torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run() -> torch.Tensor:
        return table.run(one, lambda x, t: torch.sin(x + t), noise, fresh=lambda row: noise * row)

    few = run()
    for row in range(one.evaluations + 1):
        assert one.needed(row) == [j for j in range(min(row, one.evaluations)) if np.any(one.predictions[row:, j])]
    monkeypatch.setattr(Table, "needed", lambda self, row: list(range(min(row, self.evaluations))))
    assert torch.equal(few, run())


def test_run_drops_what_is_not_needed() -> None:
    alive: set[int] = set()

    class Prediction(float):
        def __init__(self, value: float) -> None:
            alive.add(id(self))

        def __del__(self) -> None:
            alive.discard(id(self))

    most = []

    def denoise(x: float, t: float) -> Prediction:
        most.append(len(alive))
        return Prediction(x)

    table.run(made("dpmpp_3m", 40), denoise, 1.0)
    assert max(most) == 2  # and the one being made: the three of a third-order row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_run_keeps_the_dtype_and_shape_of_the_noise(dtype: torch.dtype) -> None:
    noise = torch.randn(2, 1, 4, dtype=dtype)
    result = table.run(made("unipc"), lambda x, t: torch.tanh(x), noise)
    assert (result.dtype, result.shape) == (dtype, noise.shape)
    assert torch.isfinite(result).all()


def test_stochastic_needs_fresh_noise() -> None:
    with pytest.raises(ValueError, match="pass fresh"):
        table.run(made("ddpm"), lambda x, t: x, np.zeros(3))


def test_denoiser_is_asked_at_the_times_of_the_table() -> None:
    one, asked = made("heun", 4), []

    def denoise(x: float, t: float) -> float:
        asked.append(t)
        return x

    table.run(one, denoise, 1.0)
    assert asked == one.times.tolist()
    grid = times.logsnr(COSINE, 4)
    assert asked == [grid[0], grid[1], grid[1], grid[2], grid[2], grid[3], grid[3]]


def test_rows_reject_what_no_table_can_hold() -> None:
    t = np.array([0.9, 0.5, 0.0])
    rows = Rows("wrong", COSINE, t, 2)
    old = rows.noise()
    x = rows.start + old
    rows.evaluate(x, 0.9)
    with pytest.raises(ValueError, match="1 evaluations made, 2 declared"):
        rows.table(x)
    rows.evaluate(rows.start + 0.5 * old, 0.5)  # neither kept in proportion nor fresh
    with pytest.raises(ValueError, match="fresh noise of an earlier row"):
        rows.table(rows.start)


@pytest.mark.parametrize("t", [[0.5], [0.5, 0.5], [0.2, 0.5], [1.5, 0.0], [0.5, -0.1], [np.nan, 0.0]])
def test_times_must_fall(t: list[float]) -> None:
    with pytest.raises(BadInput, match="times must fall strictly"):
        solvers.ddim(COSINE, np.array(t))


def test_the_first_evaluations_of_a_table_are_those_of_the_whole() -> None:
    whole, noise, asked = made("dpmpp_3m", 12), np.random.default_rng(0).standard_normal((2, 3)), []

    def denoise(x: Any, t: float) -> Any:
        asked.append(x)
        return 0.5 * x

    table.run(whole, denoise, noise)
    assert np.array_equal(table.run(whole.first(5), lambda x, t: 0.5 * x, noise), asked[5])
    assert whole.first(50).evaluations == 12
    kept = [len(whole.needed(row)) for row in range(13)]
    assert kept[whole.fullest] == max(kept)
    assert whole.fullest < 10
