"""Whole blocks of a ``UNet2DModel`` removed, by measured damage: an ordinary network without them is left.

What plain diffusers runs without: the attention of a level, on its way down or up, that of the middle, and the middle
block.  What a block's absence does to the output is measured, not derived from its weights (as for BK-SDM, Kim et al.
2023, arXiv:2305.15798, 3.1): the power of the change over the power of the output, at three noise levels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DModel

from hasten.errors import BadInput
from hasten.measure.damage import change

WITHOUT = {"AttnDownBlock2D": "DownBlock2D", "AttnUpBlock2D": "UpBlock2D"}
Evaluate = Callable[[UNet2DModel], torch.Tensor]
Tell = Callable[[str, int, int], None]  # what is done, how many of how many are


@dataclass(frozen=True)
class Block:
    """What can go: a configuration without it has ``value`` at ``key``, at place ``number`` where that is a list."""

    name: str
    key: str
    number: int | None
    value: str | bool | None

    def is_gone(self, config: dict[str, Any]) -> bool:
        """Whether a configuration is without it."""
        found = config[self.key]
        if self.number is not None:
            found = found[self.number] if self.number < len(found) else None
        return bool(found == self.value)

    def gone(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration without it."""
        if self.number is None:
            return {**config, self.key: self.value}
        row = list(config[self.key])
        row[self.number] = self.value
        return {**config, self.key: row}


@dataclass(frozen=True)
class Damaged:
    """A block that can go, how many ``parameters`` go with it, and the ``damages`` at each of three noise levels, as
    :func:`hasten.measure.damage.change` has them."""

    block: Block
    parameters: int
    damages: tuple[float, ...]


def removable(network: UNet2DModel) -> Iterator[Block]:
    """The blocks of ``network`` that can go, one at a time."""
    config = network.config
    for side in ("down", "up"):
        key = f"{side}_block_types"
        for number, kind in enumerate(config[key]):
            if kind in WITHOUT:
                yield Block(f"{side}_blocks.{number}.attentions", key, number, WITHOUT[kind])
    if config["mid_block_type"] is not None:
        if config["add_attention"]:
            yield Block("mid_block.attentions", "add_attention", None, False)
        yield Block("mid_block", "mid_block_type", None, None)


def without(network: UNet2DModel, block: Block) -> UNet2DModel:
    """A network without ``block``, with copies of all other weights."""
    config = {key: value for key, value in network.config.items() if not key.startswith("_")}
    made = UNet2DModel(**block.gone(config))
    weights = network.state_dict()
    made.load_state_dict({name: weights[name] for name in made.state_dict()})
    return made.to(network.device).eval()


def as_in(network: UNet2DModel, config: dict[str, Any]) -> UNet2DModel:
    """``network`` without the blocks that ``config`` is without."""
    for block in list(removable(network)):
        if block.is_gone(config):
            network = without(network, block)
    return network


@torch.inference_mode()
def damaged(
    network: UNet2DModel, evaluate: Evaluate, tell: Callable[[int, int], None] = lambda *_: None
) -> list[Damaged]:
    """Each block that can go, the one that does least damage first.

    ``evaluate(network)`` asks about equally many states of each of LEVELS, one level after the other, and returns the
    outputs (n, ...).
    """
    whole, rows, could_go = evaluate(network), [], list(removable(network))
    for number, block in enumerate(could_go):
        tell(number, len(could_go))
        made = without(network, block)
        fewer = network.num_parameters() - made.num_parameters()
        rows.append(Damaged(block, fewer, change(whole, evaluate(made))))
    return sorted(rows, key=lambda row: sum(row.damages))


def drop(
    network: UNet2DModel, count: int, evaluate: Evaluate, tell: Tell = lambda *_: None
) -> tuple[UNet2DModel, list[Damaged]]:
    """``network`` without ``count`` blocks, always the one that does least damage then; and all that could go, those
    that are gone first, each with the damage that was measured last.

    Raises BadInput when it has not so many.
    """
    gone: list[Damaged] = []
    rows: list[Damaged] = []
    while len(gone) < count:
        rows = damaged(network, evaluate, partial(tell, f"block {len(gone) + 1} of {count}"))
        if not rows:
            only = f"only {len(gone)} can go (attention, and the middle block)"
            raise BadInput(f"{count} blocks: {only}; lower it, or prune channels")
        gone.append(rows[0])
        network = without(network, rows[0].block)
    left = set(removable(network))  # with the middle block its attention is gone
    return network, gone + [row for row in rows if row.block in left]
