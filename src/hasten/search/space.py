"""What can be searched: a few dimensions, each with a list of values.  No torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Point = dict[str, Any]


@dataclass(frozen=True)
class Space:
    """``dimensions``: name and values (strings or numbers) of each."""

    dimensions: tuple[tuple[str, tuple[Any, ...]], ...]

    def __len__(self) -> int:
        """How many points there are."""
        size = 1
        for _, values in self.dimensions:
            size *= len(values)
        return size

    def holds(self, point: Point) -> bool:
        """Whether ``point`` names each dimension with one of its values."""
        return {name for name, _ in self.dimensions} == set(point) and all(
            point[name] in values for name, values in self.dimensions
        )

    def points(self) -> Iterator[Point]:
        """All points, the first dimension slowest."""
        names = [name for name, _ in self.dimensions]
        for values in itertools.product(*(values for _, values in self.dimensions)):
            yield dict(zip(names, values, strict=True))


def key(point: Point) -> str:
    """The same string for the same point."""
    return json.dumps(point, sort_keys=True)
