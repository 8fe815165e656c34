"""Where random numbers begin: what each is for, and the number that seeds it.

All follows from the one seed that a person gives, by :func:`seed_of` for one generator and by :func:`stream` where a
generator begins anew at each place of a long row, as the batches of a run are.  Numbers stay what they are: whoever
changes one changes samples, checkpoints and artifacts.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # some need the purposes alone
    import numpy as np


class Purpose(Enum):
    """What a seed is for: ``(times, plus)``, by which it is made of a person's; no two make the same."""

    # Cases of optimize, which share no noise
    SEARCH = (10, 1)
    CONFIRM = (10, 2)
    REFERENCE = (10, 3)
    MORE = (10, 4)
    # Those of compare, which searches nothing
    TIMED = SEARCH
    PAIRS = CONFIRM
    ATTRIBUTION = (1, 1)  # the order of rounds without a technique

    CASE = (100_003, 0)  # of a workload, by its place
    FRESH_NOISE = (1009, 1)  # of a case, by row of the sampler's table
    BATCH = (1_000_003, 0)  # of training, by number: noise, levels, dropout
    ROUNDING = (1_000_003, 1 << 40)  # of weights to 16 bits after a batch, by its number
    VALIDATION = (1, 30_011)

    # Those that no seed of a person's changes
    TRIAL = (1, 0)  # of what is only asked for shapes, blame or features
    FEATURES = (1, 20_001)
    MIDDLE_LAYER = (1, 20_002)  # that features are taken from, where no name tells it
    ARTIFACT = (1, 70_001)  # its reference
    ANSWERS = (1, 80_021)
    CALIBRATION = (1, 90_001)


class Stream(Enum):
    """What a stream is for, as the words that end its seed."""

    ORDER = ()
    AUGMENTATION = (0xA06,)


def seed_of(purpose: Purpose, seed: int = 0, place: int = 0) -> int:
    """The seed for ``purpose`` that follows from a person's ``seed``, at ``place`` in a row of such."""
    times, plus = purpose.value
    return seed * times + place + plus


def stream(purpose: Stream, seed: int, *place: int) -> np.random.Generator:
    """The random numbers for ``purpose`` at ``place``, such as an epoch or a batch."""
    import numpy as np

    return np.random.default_rng((seed, *place, *purpose.value))
