"""Another solver, fewer steps, another time grid: fewer questions to the network for the same sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hasten.diffusion import solvers, times
from hasten.diffusion.schedule import Schedule
from hasten.diffusion.table import Table
from hasten.errors import BadInput, did_you_mean
from hasten.model.target import Facts, Target
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage


@dataclass(frozen=True)
class Sampler:
    """``solver`` and ``grid`` by name (:mod:`hasten.diffusion.solvers`, ``times``); ``steps`` from 1 to 1000."""

    name: ClassVar[str] = "sampler"
    effects: ClassVar[Effects] = Effects(Stage.SAMPLER, Fidelity.LOSSY, scope="sampler", claims=frozenset({"sampler"}))

    solver: str = "unipc"
    steps: int = 10
    grid: str = "logsnr"

    def __post_init__(self) -> None:
        if self.solver not in solvers.SOLVERS:
            raise BadInput(f"sampler.solver {self.solver!r} is not known{did_you_mean(self.solver, solvers.SOLVERS)}")
        if self.grid not in times.GRIDS:
            raise BadInput(f"sampler.grid {self.grid!r} is not known{did_you_mean(self.grid, times.GRIDS)}")
        if not 1 <= self.steps <= 1000:
            raise BadInput(f"sampler.steps = {self.steps} is out of range; 1 to 1000")

    @property
    def label(self) -> str:
        """ "UniPC 8 steps"."""
        return f"{solvers.LABELS[self.solver]} {self.steps} steps"

    @classmethod
    def rests_on(cls) -> str:
        """Nothing."""
        return "any processor"

    def refuse(self, facts: Facts) -> str | None:
        """Every model can be sampled."""
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Sampler, ...]:
        """Deterministic multistep solvers at few steps: those that published comparisons rank first."""
        return tuple(
            cls(solver, steps, grid)
            for solver in ("unipc", "dpmpp_3m", "dpmpp_2m", "deis", "ipndm")
            for steps in (6, 7, 8, 9, 10, 12, 15, 20)
            for grid in ("logsnr", "karras", "uniform")
        )

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Give the target another table."""
        target.table = self.table(target.schedule)

    def table(self, schedule: Schedule) -> Table:
        """What the target runs."""
        return solvers.SOLVERS[self.solver](schedule, times.GRIDS[self.grid](schedule, self.steps))


STEP_PROBE = Sampler("ddim", 2, "uniform")  # what an engine is tried with: as few evaluations as make a sample
