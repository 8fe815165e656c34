"""Drift, distance and the verdicts on samples whose damage is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hasten.data import digits
from hasten.errors import BadInput, HastenError
from hasten.measure import quality
from hasten.measure.distance import Loss
from hasten.measure.features import Features
from hasten.measure.quality import LOSS, NO_LOSS, TOO_FEW, WITHIN, Reference, View, compare, drift_db, join, judge
from hasten.model import source
from hasten.report import result

RNG = np.random.default_rng(0)
DATA, _ = digits.load(8).part(held_out=False)
REAL = torch.from_numpy(RNG.permutation(DATA))
FAKE = REAL[:200] + 0.3 * torch.from_numpy(RNG.standard_normal((200, 1, 8, 8)).astype(np.float32))


@pytest.fixture(scope="module")
def against(tiny_folder: Path) -> Reference:
    return quality.reference(source.load(tiny_folder).build(), REAL[200:], count=300)


@pytest.fixture(scope="module")
def baseline(against: Reference) -> View:
    return against.view(FAKE)


def noisier(amount: float, seed: int = 5) -> torch.Tensor:
    noise = np.random.default_rng(seed).standard_normal(tuple(FAKE.shape)).astype(np.float32)
    return FAKE + amount * torch.from_numpy(noise)


def test_drift_is_the_psnr() -> None:
    a = torch.zeros((2, 3, 4, 4))
    assert drift_db(a, a + 0.2, span=2.0) == pytest.approx(20.0)
    assert drift_db(a, a + 0.2, span=1.0) == pytest.approx(20.0 - 20.0 * math.log10(2.0), abs=1e-4)
    b = a.clone()
    b[0] += 0.2 * math.sqrt(2.0)  # the mse is over all pairs, not a mean of decibels
    assert drift_db(a, b) == pytest.approx(20.0)
    assert drift_db(a, a) == 150.0


def test_the_span_is_the_range_of_the_data(against: Reference, tiny_folder: Path) -> None:
    assert against.span == pytest.approx(2.0)
    wide = quality.reference(source.load(tiny_folder).build(), 50.0 * REAL + 7.0, count=100)
    assert wide.span == pytest.approx(100.0)


def test_the_baseline_against_itself_loses_nothing(against: Reference, baseline: View) -> None:
    found = compare(against, baseline, against.view(FAKE.clone()), converged=FAKE)
    assert (found.loss, found.loss_low, found.loss_high, found.detectable) == (0.0, 0.0, 0.0, 0.0)
    assert found.verdict == NO_LOSS
    assert found.drift_db == 150.0
    assert found.drift_db_converged == {"baseline": 150.0, "candidate": 150.0}
    assert found.baseline_distance > found.noise_floor > 0
    assert (found.pairs, found.reference, found.origin) == (200, 300, "data")
    assert found.features == "mid_block at s = 0.01"


def test_the_worse_the_samples_the_larger_the_distance_and_the_drift(against: Reference, baseline: View) -> None:
    found = [compare(against, baseline, against.view(noisier(amount))) for amount in (0.05, 0.1, 0.2, 0.4)]
    for values in ([q.candidate_distance for q in found], [q.second_opinion.candidate for q in found]):
        assert np.all(np.diff(values) > 0)
    assert np.all(np.diff([q.drift_db for q in found]) < 0)
    worst = found[-1]
    assert worst.verdict == LOSS
    assert worst.loss_low is not None
    assert worst.loss_low > 0.1
    assert worst.second_opinion.low is not None
    assert worst.second_opinion.low > 0.2


def test_better_samples_have_a_negative_loss(against: Reference, baseline: View) -> None:
    better = compare(against, baseline, against.view(REAL[:200] + 0.5 * (FAKE - REAL[:200])))
    assert better.loss is not None
    assert better.loss_high is not None
    assert better.loss < better.loss_high < 0
    assert better.verdict in (NO_LOSS, WITHIN)
    assert better.second_opinion.loss is not None
    assert better.second_opinion.loss < 0


def test_a_collapse_to_a_few_samples_is_seen(against: Reference, baseline: View) -> None:
    found = compare(against, baseline, against.view(FAKE[torch.arange(200) % 8]))
    assert found.verdict == LOSS
    assert found.second_opinion.low is not None
    assert found.second_opinion.low > 0


def test_real_samples_kept_apart_are_the_yardstick(tiny_folder: Path) -> None:
    """The data's own distance is reported for as many samples, and is under that of damaged ones."""
    target = source.load(tiny_folder).build()
    against = quality.reference(target, REAL[200:], count=300, real=REAL[:200])
    found = compare(against, against.view(FAKE[:100]), against.view(FAKE[:100]))
    assert found.real_distance is not None
    assert 0 < found.real_distance < found.baseline_distance
    assert compare(against, against.view(FAKE), against.view(FAKE)).real_distance is not None
    alone = quality.reference(target, REAL[200:], count=300)
    assert compare(alone, alone.view(FAKE), alone.view(FAKE)).real_distance is None


def test_the_order_of_the_data_does_not_move_the_yardstick(tiny_folder: Path) -> None:
    """Data is often sorted by what it shows; its first samples alone must not stand for all of it."""
    target = source.load(tiny_folder).build()
    sorted_by_kind = torch.cat([REAL[:100], -REAL[100:200]])
    found = []
    for real in (sorted_by_kind, sorted_by_kind.flip(0)):
        against = quality.reference(target, REAL[200:], count=300, real=real)
        found.append(compare(against, against.view(FAKE[:60]), against.view(FAKE[:60])).real_distance)
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_the_second_opinion_can_veto() -> None:
    none = np.zeros((2, 2))
    quiet = Loss(1.0, 1.0, none + 1e-8, none)
    loud = Loss(1.0, 1.1, none + np.diag([0.0, 1e-6]), none)
    assert judge(quiet, quiet, 0.02)[0] == NO_LOSS
    verdict, reason = judge(quiet, loud, 0.02)
    assert verdict == LOSS
    assert "second opinion" in reason
    assert judge(quiet, loud, 0.2)[0] == NO_LOSS


@pytest.mark.parametrize(
    ("difference", "error", "budget", "verdict"),
    [
        (0.0, 0.01, 0.02, NO_LOSS),
        (0.01, 0.01, 0.001, NO_LOSS),
        (-0.2, 0.01, 0.02, NO_LOSS),
        (0.0, 0.03, 0.02, TOO_FEW),
        (0.0, 0.03, 0.06, WITHIN),
        (-0.2, 0.03, 0.02, WITHIN),
        (0.015, 0.002, 0.02, WITHIN),
        (0.015, 0.004, 0.02, LOSS),
        (0.10, 0.01, 0.02, LOSS),
        (0.10, 0.03, 0.02, LOSS),
    ],
)
def test_verdicts(difference: float, error: float, budget: float, verdict: str) -> None:
    both = np.asarray([[1.0, 1.0], [1.0, 1.0]])
    over_pairs = 0.001**2 * both + np.diag([0.0, error**2])
    loss = Loss(1.0, 1.0 + difference, over_pairs, np.zeros((2, 2)))
    assert loss.detectable == pytest.approx((1.645 + 0.842) * error, rel=1e-3)
    silent = Loss(1.0, 1.0, np.zeros((2, 2)), np.zeros((2, 2)))
    assert judge(loss, silent, budget)[0] == verdict
    assert judge(loss, silent, budget)[1]


def test_an_interval_is_fieller_s() -> None:
    over_pairs, over_reference = np.asarray([[0.02, 0.01], [0.01, 0.03]]), np.asarray([[0.01, 0.01], [0.01, 0.01]])
    loss = Loss(1.0, 1.3, over_pairs, over_reference)
    assert loss.interval is not None
    for end in loss.interval:
        gradient = np.asarray([-(1.0 + end), 1.0])  # candidate - (1 + q) baseline
        error = math.sqrt(gradient @ (over_pairs + over_reference) @ gradient)
        assert abs(gradient @ [1.0, 1.3]) == pytest.approx(1.6449 * error, rel=1e-4)
    assert loss.interval[0] < loss.relative < loss.interval[1]  # type: ignore[operator]
    assert loss.noise_floor == pytest.approx(1.96 * math.sqrt(2 * 0.02))
    assert Loss(0.2, 0.3, over_pairs, over_reference).interval is None


def test_pairs_needed(against: Reference, baseline: View) -> None:
    found = compare(against, baseline, against.view(noisier(0.2)))
    assert found.detectable is not None
    needed = quality.pairs_needed(found)
    assert needed is not None
    assert needed == pytest.approx(1.1 * 200 * (found.detectable / 0.05) ** 2, abs=1)


def test_more_pairs_are_joined(against: Reference, baseline: View) -> None:
    joined = join([against.view(FAKE[:64]), against.view(FAKE[64:])])
    assert len(joined) == 200
    torch.testing.assert_close(joined.samples, baseline.samples)
    for ours, whole in zip((*joined.features, *joined.bands), (*baseline.features, *baseline.bands), strict=True):
        np.testing.assert_allclose(ours, whole, rtol=1e-3, atol=1e-6)


def test_the_report_reads_what_is_written(tiny_folder: Path) -> None:
    against = quality.reference(source.load(tiny_folder).build(), REAL[200:], real=REAL[:200])
    found = compare(against, against.view(FAKE), against.view(noisier(0.1)), converged=FAKE, budget=0.07)
    read = result.Quality.model_validate_json(json.dumps(found.to_json(), allow_nan=False))
    for name in result.Quality.model_fields:
        value = getattr(read, name)
        assert value is not None
        if isinstance(value, float):
            assert value == getattr(found, name)
    assert read.second_opinion is not None
    assert read.second_opinion.low == found.second_opinion.low


def test_own_features_any_shape_and_no_data() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return x

    from hasten.diffusion import schedule

    target = source.load(Net(), schedule=schedule.linear(), prediction="epsilon", shape=(5,)).build()
    rng = np.random.default_rng(1)
    features = Features("mine", lambda samples: samples[:, :2].double().numpy())
    data = rng.standard_normal((100, 5)).astype(np.float32)
    against = quality.reference(target, data, origin="converged samples", features=features, count=80, seed=3)
    samples = torch.from_numpy(rng.standard_normal((64, 5)).astype(np.float32)) + 1.0
    found = compare(against, against.view(samples), against.view(samples + 0.5))
    assert (found.features, found.origin, found.reference) == ("mine", "converged samples", 80)
    assert found.verdict == LOSS


def test_what_hardly_varies_in_the_reference_is_not_blown_up(tiny_folder: Path) -> None:
    target = source.load(tiny_folder).build()
    flat = REAL.clone()
    flat[..., :] = flat.mean((1, 2, 3), keepdim=True)  # the fine band is empty
    features = Features("mean and a constant", lambda x: np.stack([x.mean((1, 2, 3)).numpy(), np.ones(len(x))], 1))
    against = quality.reference(target, flat, features=features, count=100)
    found = compare(against, against.view(FAKE), against.view(noisier(0.1)))
    assert math.isfinite(found.candidate_distance)
    assert math.isfinite(found.second_opinion.candidate)


def test_bad_input(against: Reference, baseline: View, tiny_folder: Path) -> None:
    target = source.load(tiny_folder).build()
    with pytest.raises(BadInput, match="too few for a reference"):
        quality.reference(target, REAL[:15])
    with pytest.raises(BadInput, match=r"data: shape \(3, 8, 8\)"):
        quality.reference(target, REAL[:20].expand(-1, 3, -1, -1))
    with pytest.raises(BadInput, match=r"samples: shape \(1, 4, 4\)"):
        against.view(FAKE[..., :4, :4])
    with pytest.raises(BadInput, match="200 samples of the baseline, 100 of the candidate"):
        compare(against, baseline, against.view(FAKE[:100]))
    with pytest.raises(BadInput, match="15 pairs are too few"):
        compare(against, against.view(FAKE[:15]), against.view(FAKE[:15]))
    broken = FAKE.clone()
    broken[3, 0, 1, 1], broken[7, 0, 0, 0] = math.nan, math.inf
    with pytest.raises(HastenError, match="2 of 200 hold NaN or Inf"):
        against.view(broken)


def test_a_candidate_that_only_remembers_is_found_out(tiny_folder: Path) -> None:
    """Training samples themselves look perfect by any distance; the verdict says what they are."""
    target = source.load(tiny_folder).build()
    against = quality.reference(target, REAL[200:], real=REAL[:200])
    honest = against.view(FAKE)
    found = compare(against, honest, against.view(REAL[200 : 200 + len(FAKE)]))
    assert found.copies is not None
    assert found.copies.candidate > 0.9
    assert found.copies.baseline < 0.1
    assert found.verdict == LOSS
    assert "copies of training samples" in found.reason
    assert compare(against, honest, honest).verdict != LOSS
    joined = quality.join([against.view(FAKE[:20]), against.view(FAKE[20:])])
    assert joined.copied is not None
    assert joined.copied.tolist() == honest.copied.tolist()  # type: ignore[union-attr]
