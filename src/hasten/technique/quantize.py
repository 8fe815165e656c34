"""INT8 weights and activations by NNCF's post-training quantisation, calibrated on real intermediate states.

What a network sees changes over the sampling times, so ranges are taken from states of the model's own trajectories,
spread over all times (Shang et al. 2023, PTQ4DM, arXiv:2211.15736; Li et al. 2023, Q-Diffusion, arXiv:2302.04304).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

import torch

from hasten.diffusion import solvers, times
from hasten.diffusion.table import run
from hasten.environment import int8_products
from hasten.errors import BadInput
from hasten.model.target import Facts, Network, Target
from hasten.model.workload import draw
from hasten.runtime import openvino
from hasten.seeds import Purpose, seed_of
from hasten.technique.contract import Effects, Fidelity, Prepared, Stage

CALIBRATION_STEPS = 20


@dataclass(frozen=True)
class Quantize:
    """``share``: of all multiplications, how much the quantised layers do, the costliest first, 0 to 1;
    ``images``: trajectories that calibration states are taken from, 1 to 256.
    """

    name: ClassVar[str] = "quantize"
    effects: ClassVar[Effects] = Effects(
        Stage.QUANTIZE,
        Fidelity.LOSSY,
        scope="convolutions, matrix products",
        requires=frozenset({"openvino_graph", "float_weights"}),
        breaks=frozenset({"float_weights"}),
        claims=frozenset({"weight_format"}),
    )

    share: float = 0.9
    images: int = 16

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise BadInput(f"quantize.share = {self.share} is out of range; over 0, up to 1")
        if not 1 <= self.images <= 256:
            raise BadInput(f"quantize.images = {self.images} is out of range; 1 to 256")

    @property
    def label(self) -> str:
        """ "int8"."""
        return "int8"

    @classmethod
    def rests_on(cls) -> str:
        """NNCF, and VNNI."""
        return f"NNCF {version('nncf')}; {int8_products()}"

    def refuse(self, facts: Facts) -> str | None:
        """Needs layers whose products INT8 makes cheaper."""
        if not any(name.startswith(("Conv", "Linear")) for name, _ in facts.kinds):
            return "there is no convolution or linear layer to quantise; drop quantize"
        return None

    @classmethod
    def choices(cls, facts: Facts) -> tuple[Quantize, ...]:
        """One."""
        return (cls(),)

    def apply_(self, target: Target, prepared: Prepared) -> None:
        """Calibrate and quantise once (cached), then run the quantised graph."""
        network = target.network
        assert isinstance(network, openvino.Network)

        def make(folder: Path) -> None:
            plain = openvino.Network(lambda: network.graph, "float32", streams=1)
            states = calibration_states(replace(target, network=plain), self.images)
            graph = openvino.quantize(network.graph, states, self.share)
            openvino.save(graph, folder / "model.xml")

        made = f"int8-{self.share:g}-{self.images}"
        target.network = openvino.Network(
            lambda: openvino.read(prepared.get(made, make) / "model.xml"), network.precision, network.streams, made
        )


def calibration_states(target: Target, images: int) -> list[tuple[torch.Tensor, ...]]:
    """What ``target``'s network is given along ``images`` trajectories of DPM-Solver++ 2M, 20 times uniform in log-SNR.

    Each state is ``(x (1, *shape), time (1,), labels (1,))`` on the host: one image at one time, all times, labels in
    turn.
    """
    facts = target.facts
    labels = None
    if facts.num_labels is not None:
        labels = [label for label in range(facts.num_labels) if target.guidance != 1.0 or label != facts.null_label]
    case = draw(facts.shape, 1, images, seed_of(Purpose.CALIBRATION), labels).cases[0].to(facts.device)
    seen: list[tuple[torch.Tensor, ...]] = []
    asked: Network = target.network

    def remember(x: torch.Tensor, time: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        parts = (x, time) if labels is None else (x, time, labels)
        seen.append(tuple(part.cpu().clone() for part in parts))
        return asked(x, time, labels)

    table = solvers.SOLVERS["dpmpp_2m"](target.schedule, times.GRIDS["logsnr"](target.schedule, CALIBRATION_STEPS))
    watched = replace(target, network=remember)
    with torch.inference_mode():
        run(table, lambda x, t: watched.denoise(x, t, case.labels), case.noise)
    # Every second image of every second time would repeat a pattern; a stride of 3 visits all pairs in turn.
    states = [tuple(part[i : i + 1] for part in batch) for batch in seen for i in range(len(batch[0]))]
    return states[::3] if len(states) > 120 else states
