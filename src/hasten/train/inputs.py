"""What a recipe learns from: its data, their batches, and what must be the same for a run to go on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from hasten.data.array import Data
from hasten.data.augment import Augment
from hasten.data.latents import encoded
from hasten.data.loader import Loader, by_name
from hasten.model import source as sources
from hasten.model import vae
from hasten.model.source import Source
from hasten.train.recipe import Recipe

Decode = Callable[[torch.Tensor], torch.Tensor]


def dataset(
    recipe: Recipe, progress: Callable[[int, int], None] | None = None, source: Source | None = None
) -> tuple[Data, Decode | None]:
    """The recipe's data, and what makes pictures of its latents, if they are some.

    Pictures, but for digits, have the channels and, as wide as it is, the height of the network that is trained
    further: ``source``, or the recipe's own.
    """
    section = recipe.data
    channels, size = 3, (section.size, section.size)
    if section.vae is None and section.name != "digits":
        if source is None and recipe.model.folder is not None:
            source = sources.load(recipe.model.folder)
        if source is not None and len(source.shape) == 3:
            channels = source.shape[0]
            if section.size == source.shape[2]:
                size = (source.shape[1], source.shape[2])
    levels = len(recipe.model.block_out_channels or (1, 1, 1, 1))
    data = by_name(
        section.name,
        size,
        section.path,
        channels,
        skip_bad=section.skip_bad,
        buckets=section.buckets,
        multiple=2 ** (levels - 1),
        progress=progress,
    )
    if section.vae is None:
        return data, None
    encoder = vae.load(section.vae, recipe.train.device)
    return encoded(data, encoder, progress), encoder.decode


def loader(recipe: Recipe, data: Data) -> Loader:
    """The recipe's batches of ``data``."""
    section, options = recipe.data, recipe.train
    augment = Augment(flip=section.flip, shift=section.shift)
    return Loader(
        data,
        options.batch_size,
        options.seed,
        device=options.device,
        workers=section.workers,
        augment=augment,
        period=None if recipe.teacher is None else recipe.teacher.cached,
    )


def fingerprint(recipe: Recipe, data: Data, source: Source) -> str:
    """What must be the same for a run to go on from a checkpoint, as 64 hexadecimal digits."""
    taught = "" if recipe.teacher is None else sources.load(recipe.teacher.folder).weight_hash
    return hashlib.sha256(f"{recipe.identity}{source.weight_hash}{data.digest()}{taught}".encode()).hexdigest()
