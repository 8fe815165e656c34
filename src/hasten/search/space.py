"""What is searched: ways to run the network, whose cost is known, and samplers, whose error is to be found.  No torch.

A plan's cost is that of one evaluation on its way times its evaluations, and its error hardly depends on the way;
so the space is a product of two short lists, not one long one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

Point = dict[str, Any]
ALL = 0  # "images" of a point that is judged on all search cases


@dataclass(frozen=True)
class Cost:
    """A way to run the network, known by its plan's hash: ``figure`` is what the goal minimises whatever the sampler
    (bytes; 0 where that is time alone), and ``seconds`` what an evaluation takes for one image."""

    way: str
    figure: float
    seconds: float


@dataclass(frozen=True)
class Space:
    """``costs`` of the ways, the cheapest first; ``ranked_on``: the way that samplers are ranked on; ``tables``:
    solvers with their time grids, the likeliest first; ``steps``: numbers of evaluations, ascending.

    Raises ValueError when the way that is ranked on is none of ``costs``.
    """

    costs: tuple[Cost, ...]
    ranked_on: str
    tables: tuple[tuple[str, str], ...]
    steps: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.ranked_on not in {cost.way for cost in self.costs}:  # or its trials would never count
            raise ValueError(f"samplers are ranked on {self.ranked_on}, which is none of the ways searched")

    def cost(self, way: str, steps: int) -> tuple[float, float]:
        """What is minimised: the goal's figure, then seconds."""
        cost = next(each for each in self.costs if each.way == way)
        return cost.figure, cost.seconds * steps

    def holds(self, point: Point) -> bool:
        """Whether ``point`` is one of this space."""
        return (
            point.get("way") in {cost.way for cost in self.costs}
            and (point.get("solver"), point.get("grid")) in self.tables
            and point.get("steps") in self.steps
        )


def point(way: str, table: tuple[str, str], steps: int, images: int) -> Point:
    """A sampler on a way, and how many images it is judged by (ALL: all search cases)."""
    return {"way": way, "solver": table[0], "grid": table[1], "steps": steps, "images": images}


def key(point: Point) -> str:
    """The same string for the same point."""
    return json.dumps(point, sort_keys=True)
