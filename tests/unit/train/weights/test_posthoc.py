"""Averages made after training against the same ones tracked all along, on a random walk of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hasten.errors import BadInput
from hasten.train.weights.average import PowerAverage, update_all_
from hasten.train.weights.posthoc import Snapshot, coefficients, inner, reconstruct, save, snapshots

STEPS, EVERY = 2000, 125
WANTED = (0.06, 0.08, 0.12, 0.2)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[float, dict[str, torch.Tensor]]]:
    """Snapshots of 0.05 and 0.1 along a walk, and the averages that were tracked."""
    folder, rng = tmp_path_factory.mktemp("run"), torch.Generator().manual_seed(0)
    weights = {"a": torch.randn(400, generator=rng) * 5, "count": torch.tensor(0)}
    kept = [PowerAverage(weights, 0.05), PowerAverage(weights, 0.1)]
    tracked = [PowerAverage(weights, sigma) for sigma in WANTED]
    for step in range(1, STEPS + 1):
        weights["a"] += torch.randn(400, generator=rng) * 0.05
        weights["count"] += 1
        update_all_([*kept, *tracked], weights, step)
        if step % EVERY == 0:
            for average in kept:
                save(average, step, folder)
    return folder, {average.sigma_rel: average.tensors for average in tracked}


@pytest.mark.parametrize("sigma", WANTED)
def test_any_length_is_met(walk: tuple[Path, dict[float, dict[str, torch.Tensor]]], sigma: float) -> None:
    folder, tracked = walk
    made = reconstruct(snapshots(folder), STEPS, sigma)
    error = (made["a"] - tracked[sigma]["a"]).square().mean().sqrt().item()
    spread = (tracked[0.06]["a"] - tracked[0.2]["a"]).square().mean().sqrt().item()
    assert error < 0.01 * spread
    assert made["count"] == STEPS


def test_files_are_named_by_step_and_length(walk: tuple[Path, dict[float, dict[str, torch.Tensor]]]) -> None:
    found = snapshots(walk[0])
    assert found[0] == Snapshot(walk[0] / "average-0000125-0.050.safetensors", 125, 0.05)
    assert len(found) == 2 * STEPS // EVERY


def test_inner_products_are_the_integrals() -> None:
    grid = (np.arange(400_000) + 0.5) / 400_000 * 100.0

    def profile(t: float, gamma: float) -> np.ndarray:
        return np.where(grid <= t, (gamma + 1) / t * (np.minimum(grid, t) / t) ** gamma, 0.0)

    for (t, g), (u, h) in [((100, 6.9), (40, 17.0)), ((40, 6.9), (100, 17.0)), ((100, 2.0), (100, 2.0))]:
        found = inner(np.array([float(t)]), np.array([g]), np.array([float(u)]), np.array([h]))[0, 0]
        assert found == pytest.approx((profile(t, g) * profile(u, h)).mean() * 100.0, rel=1e-3)


def test_what_is_there_is_taken_as_it_is_and_coefficients_sum_to_one() -> None:
    kept = [(step, sigma) for step in (100, 200, 300) for sigma in (0.05, 0.1)]
    factors, error = coefficients(kept, 300, 0.1)
    assert factors == pytest.approx([0, 0, 0, 0, 0, 1], abs=1e-4)
    assert error < 1e-4
    assert sum(coefficients(kept, 300, 0.15)[0]) == pytest.approx(1.0)


def test_weights_that_stand_still_are_met_exactly(tmp_path: Path) -> None:
    average = PowerAverage({"a": torch.full((3,), 1000.0)}, 0.1)
    for step in (100, 200):
        save(average, step, tmp_path)
    torch.testing.assert_close(reconstruct(snapshots(tmp_path), 200, 0.2)["a"], torch.full((3,), 1000.0))


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no snapshot"):
        reconstruct([], 10, 0.1)
    (tmp_path / "average-0000001-0.100.safetensors").write_bytes(b"no")
    with pytest.raises(BadInput, match="0000001"):
        snapshots(tmp_path)
