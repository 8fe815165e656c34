"""Pairs are added until a loss of the wanted size would be seen, and not beyond the time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from hasten.data import digits
from hasten.measure import quality
from hasten.measure.features import Features
from hasten.measure.quality import Quality, Reference
from hasten.model import source
from hasten.model.workload import Case, draw
from hasten.story.stages import enough

DIGITS = torch.from_numpy(digits.load(8).part(held_out=False)[0])


@dataclass
class Noisy:
    """Digits by the case's seed, with noise of its own."""

    scale: float
    asked: list[int] = field(default_factory=list)

    def sample(self, case: Case) -> torch.Tensor:
        self.asked.append(case.index)
        rng = torch.Generator().manual_seed(case.seed)
        chosen = DIGITS[torch.randint(len(DIGITS), (len(case.noise),), generator=rng)]
        return chosen + 0.3 * case.noise + self.scale * torch.randn(case.noise.shape, generator=rng)


@pytest.fixture(scope="module")
def against(tiny_folder: Path) -> Reference:
    flat = Features("pixels", lambda samples: samples.flatten(1).double().numpy())
    return quality.reference(source.load(tiny_folder).build(), DIGITS, features=flat)


def judge(
    against: Reference, samplers: tuple[Noisy, Noisy], wanted: float, late: bool = False, timed: int = 16
) -> Quality:
    case = draw((1, 8, 8), 1, timed, seed=9).cases[0]
    first, second = (against.view(Noisy(sampler.scale).sample(case)) for sampler in samplers)
    return enough.judge(
        against,
        (first, second),
        lambda: samplers,
        lambda cases: draw((1, 8, 8), cases, 16, seed=10),
        budget=0.02,
        wanted=wanted,
        stop=lambda: late,
        say=lambda _: None,
    )


def test_pairs_are_added_until_the_wanted_loss_would_be_seen(against: Reference) -> None:
    samplers = Noisy(0.0), Noisy(0.25)
    alone = judge(against, samplers, wanted=1.0)
    assert alone.pairs == 16
    assert not samplers[0].asked  # nothing was built or sampled
    assert alone.detectable is not None
    wanted = alone.detectable / 3
    more = judge(against, samplers, wanted)
    assert more.pairs == 16 + 16 * len(samplers[0].asked)
    assert samplers[0].asked == samplers[1].asked
    assert more.pairs > 2 * 16
    assert 0.6 * wanted < more.detectable <= wanted  # type: ignore[operator]


def test_not_beyond_the_time(against: Reference) -> None:
    assert judge(against, (Noisy(0.0), Noisy(0.25)), wanted=1e-4, late=True).pairs == 16


@pytest.mark.parametrize("late", [True, False])
def test_the_fewest_pairs_are_sampled_in_any_case(against: Reference, late: bool) -> None:
    """Twelve rounds of one image, as the goal of latency makes them, are too few to measure anything by."""
    assert judge(against, (Noisy(0.0), Noisy(0.25)), wanted=1.0, late=late, timed=12).pairs == 12 + 16
