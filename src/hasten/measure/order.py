"""In which order plans run within each round.

Each round's order is drawn anew.  That makes the interval hold whatever the noise: where a candidate is the baseline
again, swapping the two within a round swaps the sign of its log ratio and nothing else, so the signs are fair coins,
however much rounds depend on each other, and n of them fall as one-sided as a verdict needs in under 5 % of runs (a
randomisation test: Fisher 1935, The Design of Experiments, section 21).

A draw in which one of two runs first too often is drawn again: if the first of a round were always a little slower,
such an order alone would be a verdict, and a fixed seed would give it every time (seed 0 did: the baseline first in
eight of nine rounds).  Drawing again leaves out 4 to 7 % of the orders of 9 to 15 rounds, so the 3.9 % of nine rounds
become 4.1 % at most.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from hasten.measure.stats import FEWEST_ROUNDS, rank

HELD_TO = 30  # up to here a run may end after any round and still be fair; later ones are held to it at their end


def orders(names: Sequence[str], reference: str, rounds: int, rng: random.Random) -> list[list[str]]:
    """An order of ``names`` for each of ``rounds``; each of them is before ``reference`` often enough, and after it."""
    ends = sorted({*range(FEWEST_ROUNDS, min(rounds, HELD_TO) + 1), *([rounds] if rounds > HELD_TO else [])})
    others = [name for name in names if name != reference]
    while True:
        drawn = [rng.sample(list(names), len(names)) for _ in range(rounds)]
        if all(_fair(drawn, reference, other, ends) for other in others):
            return drawn


def _fair(drawn: Sequence[Sequence[str]], reference: str, other: str, ends: Sequence[int]) -> bool:
    first = [order.index(reference) < order.index(other) for order in drawn]
    return all(rank(n) <= sum(first[:n]) <= n - rank(n) for n in ends)
