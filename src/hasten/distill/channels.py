"""Structured pruning of a ``UNet2DModel``: whole channels and heads go, and a smaller ordinary network is left.

Channels that several tensors share form a *stream*: what a convolution writes, what normalisations and convolutions
read of it, and all that residual connections add to it.  A tensor that reads a concatenation reads several streams.  Of
each stream the channels of least importance go, equally many of each normalisation group, so that groups stay what they
were; of attention whole heads go.  (Fang et al. 2023, DepGraph, arXiv:2301.12900, and Diff-Pruning, arXiv:2305.10924.)

The sinusoids of the time embedding change with the first width; its first layer is fitted again by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.resnet import ResnetBlock2D

from hasten.errors import BadInput

BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}
CONDITION = 1e-3  # singular values under this share of the largest count as none
Scores = Callable[[str, int], torch.Tensor]


@dataclass(frozen=True)
class Use:
    """Dimension ``dim`` of the tensor ``name`` runs over the channels of ``streams``, one after the other."""

    name: str
    dim: int
    streams: tuple[int, ...]


@dataclass
class Streams:
    """All streams of a network: the ``widths`` of each, how many ``heads`` it is cut into (0: it is no attention's),
    and where they are used."""

    network: UNet2DModel
    widths: list[int] = field(default_factory=list)
    heads: list[int] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.network.config
        blocks = {*config["down_block_types"], *config["up_block_types"]}
        if not blocks <= BLOCKS or config["resnet_time_scale_shift"] != "default":
            other = ", ".join(sorted(blocks - BLOCKS)) or "resnet_time_scale_shift"
            raise BadInput(f"pruning of channels knows {', '.join(sorted(BLOCKS))}, and this network has {other}")
        self.tensors = dict(self.network.named_parameters())
        self._walk()

    def _stream(self, width: int, heads: int = 0) -> tuple[int, ...]:
        self.widths.append(width)
        self.heads.append(heads)
        return (len(self.widths) - 1,)

    def _use(self, name: str, dim: int, streams: tuple[int, ...]) -> None:
        if name in self.tensors:  # a bias may be none
            assert self.tensors[name].shape[dim] == sum(self.widths[each] for each in streams), name
            self.uses.append(Use(name, dim, streams))

    def _layer(self, name: str, reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()) -> None:
        """A convolution or linear layer; one that reads or writes no stream keeps all its inputs or outputs."""
        if writes:
            self._use(f"{name}.weight", 0, writes)
            self._use(f"{name}.bias", 0, writes)
        if reads:
            self._use(f"{name}.weight", 1, reads)

    def _norm(self, name: str, streams: tuple[int, ...]) -> None:
        self._use(f"{name}.weight", 0, streams)
        self._use(f"{name}.bias", 0, streams)

    def _resnet(self, name: str, block: Any, reads: tuple[int, ...]) -> tuple[int, ...]:
        """The stream that the block writes: the one it reads, where it adds to that."""
        inner = self._stream(block.conv1.out_channels)
        writes = reads if block.conv_shortcut is None else self._stream(block.conv2.out_channels)
        self._norm(f"{name}.norm1", reads)
        self._layer(f"{name}.conv1", reads, inner)
        self._layer(f"{name}.time_emb_proj", (), inner)
        self._norm(f"{name}.norm2", inner)
        self._layer(f"{name}.conv2", inner, writes)
        if block.conv_shortcut is not None:
            self._layer(f"{name}.conv_shortcut", reads, writes)
        return writes

    def _attention(self, name: str, block: Any, stream: tuple[int, ...]) -> None:
        inner = self._stream(block.to_q.out_features, block.heads)
        self._norm(f"{name}.group_norm", stream)
        for each in ("to_q", "to_k", "to_v"):
            self._layer(f"{name}.{each}", stream, inner)
        self._layer(f"{name}.to_out.0", inner, stream)

    def _layers(self, name: str, block: Any, stream: tuple[int, ...], skips: list[tuple[int, ...]], up: bool) -> Any:
        """A block's residual and attention blocks; the downward path keeps each output, the upward path reads it."""
        for number, resnet in enumerate(block.resnets):
            reads = (*stream, *skips.pop()) if up else stream
            stream = self._resnet(f"{name}.resnets.{number}", resnet, reads)
            if getattr(block, "attentions", None) is not None:
                self._attention(f"{name}.attentions.{number}", block.attentions[number], stream)
            if not up:
                skips.append(stream)
        return stream

    def _resampler(self, name: str, block: Any, reads: tuple[int, ...]) -> tuple[int, ...]:
        """The stream that a convolution writes, or a residual block where the configuration has ``resnet``."""
        if isinstance(block, ResnetBlock2D):
            return self._resnet(name, block, reads)
        writes = self._stream(block.conv.out_channels)
        self._layer(f"{name}.conv", reads, writes)
        return writes

    def _walk(self) -> None:
        network, skips = self.network, []
        stream = self._stream(network.conv_in.out_channels)
        self._layer("conv_in", (), stream)
        skips.append(stream)
        for number, block in enumerate(network.down_blocks):
            stream = self._layers(f"down_blocks.{number}", block, stream, skips, up=False)
            for down in block.downsamplers or ():
                stream = self._resampler(f"down_blocks.{number}.downsamplers.0", down, stream)
                skips.append(stream)
        if network.mid_block is not None:
            middle = network.mid_block
            stream = self._resnet("mid_block.resnets.0", middle.resnets[0], stream)
            for number, resnet in enumerate(middle.resnets[1:]):
                if middle.attentions[number] is not None:
                    self._attention(f"mid_block.attentions.{number}", middle.attentions[number], stream)
                stream = self._resnet(f"mid_block.resnets.{number + 1}", resnet, stream)
        for number, block in enumerate(network.up_blocks):
            stream = self._layers(f"up_blocks.{number}", block, stream, skips, up=True)
            for up in block.upsamplers or ():
                stream = self._resampler(f"up_blocks.{number}.upsamplers.0", up, stream)
        self._norm("conv_norm_out", stream)
        self._layer("conv_out", stream, ())

    def importance(self, stream: int, scores: Scores) -> torch.Tensor:
        """Of each channel of a stream (width,): what all tensors that have it say, summed."""
        total = torch.zeros(self.widths[stream])
        for use in self.uses:
            offset = 0
            for each in use.streams:
                if each == stream:
                    total += scores(use.name, use.dim)[offset : offset + self.widths[each]]
                offset += self.widths[each]
        return total

    def sliced(self, kept: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors with the channels ``kept`` of each stream, ascending, and no others."""
        found = {name: tensor.detach().clone() for name, tensor in self.tensors.items()}
        for use in self.uses:
            offset, indices = 0, []
            for each in use.streams:
                indices.append(kept[each] + offset)
                offset += self.widths[each]
            found[use.name] = found[use.name].index_select(use.dim, torch.cat(indices))
        return found


def smaller(config: dict[str, Any], share: float) -> dict[str, Any]:
    """The configuration with ``share``, in (0, 1], of each block's channels, in whole normalisation groups.

    Heads keep their width where the channels allow one.  The time embedding keeps its width.
    """
    step = math.lcm(config["norm_num_groups"], config.get("attn_norm_num_groups") or 1)
    widths = [max(step, round(width * share / step) * step) for width in config["block_out_channels"]]
    attended = [
        width
        for width, kind in zip(widths, config["down_block_types"], strict=True)
        if kind.startswith("Attn") or (width == widths[-1] and config["add_attention"])
    ]
    head = config["attention_head_dim"]
    if head is not None and attended:
        head = min(head, *attended)
    return {
        **config,
        "block_out_channels": widths,
        "attention_head_dim": head,
        "time_embedding_dim": config.get("time_embedding_dim") or 4 * config["block_out_channels"][0],
    }


def pruned(network: UNet2DModel, config: dict[str, Any], scores: Scores, times: torch.Tensor) -> UNet2DModel:
    """A network of ``config`` with the most important channels of ``network``, by ``scores(tensor, dimension)``.

    ``config``: the network's own with fewer channels or narrower heads (:func:`smaller`); ``times`` (n,): what the
    network is told of time, over the range in use.  Raises BadInput for a configuration that differs in other things.
    """
    old = dict(network.config)
    free = {"block_out_channels", "attention_head_dim", "time_embedding_dim"}
    differing = [key for key in old.keys() & config.keys() - free if _plain(old[key]) != _plain(config[key])]
    differing = [key for key in differing if not key.startswith("_")]
    if differing:
        raise BadInput(f"the student's {differing[0]} is not the teacher's; only channels and heads can be pruned")
    made = UNet2DModel(**{key: value for key, value in {**old, **config}.items() if not key.startswith("_")})
    streams, wanted = Streams(network), Streams(made)
    if streams.tensors.keys() != wanted.tensors.keys():  # neighbours of one width need no conv_shortcut
        raise BadInput(
            f"block_out_channels {_plain(old['block_out_channels'])} would become "
            f"{_plain(config['block_out_channels'])}, where equal neighbours make another network (channels go in "
            f"whole multiples of norm_num_groups = {old['norm_num_groups']}); keep more channels"
        )
    kept = []
    for number, width in enumerate(streams.widths):
        importance, few = streams.importance(number, scores), wanted.widths[number]
        if few > width:
            raise BadInput(f"the student is wider than the teacher ({few} channels against {width})")
        if streams.heads[number]:
            kept.append(_heads(importance, streams.heads[number], wanted.heads[number], few))
        else:
            kept.append(_most(importance.reshape(old["norm_num_groups"], -1), few // old["norm_num_groups"]))
    tensors = streams.sliced(kept)
    for name in tensors:  # the logits q k / sqrt(d) stay what they were
        if name.endswith(("to_q.weight", "to_q.bias")):
            tensors[name] *= math.sqrt(_head_width(made, name) / _head_width(network, name))
    if made.time_proj.num_channels != network.time_proj.num_channels:
        tensors["time_embedding.linear_1.weight"] = _fitted(network, made, times)
    made.load_state_dict(tensors)
    return made.eval()


def magnitude(network: torch.nn.Module) -> Scores:
    """The share of a tensor's squares that a channel has: the norm of what would go (Li et al. 2017,
    arXiv:1608.08710), with every tensor counting alike."""
    tensors = {name: value.detach().square() for name, value in network.named_parameters()}

    def score(name: str, dim: int) -> torch.Tensor:
        squares = tensors[name].transpose(0, dim).flatten(1).sum(1) if tensors[name].dim() > 1 else tensors[name]
        return squares / squares.sum().clamp_min(1e-30)

    return score


class Taylor:
    """How much the loss would change without a channel, to first order: the square of ``sum(weight * gradient)`` over
    what would go, summed over batches (Molchanov et al. 2019, arXiv:1906.10771, eq. 8)."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network = network
        self.sums: dict[tuple[str, int], torch.Tensor] = {}

    @torch.no_grad()
    def add_(self) -> None:
        """Take the gradients that the network has now."""
        for name, value in self.network.named_parameters():
            if value.grad is None:
                continue
            product = value * value.grad
            for dim in range(min(value.dim(), 2)):
                found = product.transpose(0, dim).flatten(1).sum(1) if value.dim() > 1 else product
                self.sums[name, dim] = self.sums.get((name, dim), torch.zeros(len(found))) + found.square()

    def __call__(self, name: str, dim: int) -> torch.Tensor:
        """The scores of a tensor's channels along ``dim``."""
        return self.sums[name, dim]


def _most(importance: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` best of each row of ``importance`` (groups, n), as ascending indices into all of it."""
    best = importance.topk(count, dim=1).indices.sort(dim=1).values
    offsets: torch.Tensor = torch.arange(len(importance))[:, None] * importance.shape[1]
    return (best + offsets).flatten()


def _heads(importance: torch.Tensor, heads: int, count: int, width: int) -> torch.Tensor:
    """The channels of the ``count`` best heads, the best ones of each where heads become narrower."""
    if count > heads:
        raise BadInput(f"the student would have {count} heads where the teacher has {heads}; give attention_head_dim")
    rows = importance.reshape(heads, -1)
    best = rows.sum(1).topk(count).indices.sort().values
    within = _most(rows[best], width // count).reshape(count, -1) % rows.shape[1]
    return (within + best[:, None] * rows.shape[1]).flatten()


def _head_width(network: UNet2DModel, name: str) -> int:
    block = network.get_submodule(name.rpartition(".to_q")[0])
    return int(block.to_q.out_features // block.heads)


def _fitted(network: UNet2DModel, made: UNet2DModel, times: torch.Tensor) -> torch.Tensor:
    """The first layer of the time embedding on other sinusoids, as near as least squares come to what it gave.

    Slow sinusoids hardly differ; directions that only such differences tell are left out, for they would take weights
    of a million and more (LOG.md).
    """
    weight = network.time_embedding.linear_1.weight.detach().double()
    before, after = network.time_proj(times).double(), made.time_proj(times).double()
    found: torch.Tensor = torch.linalg.lstsq(after, before @ weight.T, rcond=CONDITION, driver="gelsd").solution
    return found.T.float().contiguous()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
