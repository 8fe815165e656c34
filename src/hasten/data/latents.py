"""Pictures encoded once by a VAE: data whose samples are latents, in a memory-mapped cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.data.array import Data
from hasten.data.cache import Add, cached
from hasten.errors import BadInput

AT_ONCE = 16  # pictures encoded together


class Encoder(Protocol):
    """What makes latents of pictures: :class:`hasten.model.vae.VAE`."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]: ...

    def encode(self, pictures: torch.Tensor) -> torch.Tensor: ...


def encoded(data: Data, encoder: Encoder, progress: Callable[[int, int], None] | None = None) -> Data:
    """``data`` with scaled latents (n, *latent_shape) in float16 for its pictures, each bucket's apart.

    The cache's entry is named by the hashes of the encoder and of the data.  ``progress(done, samples)`` is told of
    the encoding.  Raises BadInput for data that the encoder can't take, and for a latent that float16 can't hold.
    """
    parts = data.buckets or (data,)
    shapes = [encoder.latent_shape(part.shape) for part in parts]
    total, made, done = sum(len(part.samples) for part in parts), [], 0
    for part, shape in zip(parts, shapes, strict=True):
        tell = None if progress is None else (lambda n, before=done: progress(before + n, total))
        made.append(replace(part, samples=_encoded(part, encoder, shape, tell)))
        done += len(part.samples)
    return replace(made[0], buckets=tuple(made)) if data.buckets else made[0]


def _encoded(
    data: Data, encoder: Encoder, shape: tuple[int, ...], progress: Callable[[int], None] | None
) -> NDArray[np.float16]:
    count = len(data.samples)

    def make(add: Add) -> dict[str, Any]:
        for start in range(0, count, AT_ONCE):
            pictures, _ = data.take(np.arange(start, min(start + AT_ONCE, count)))
            with np.errstate(over="ignore"):  # becomes Inf, and is refused
                latents = encoder.encode(torch.from_numpy(pictures)).numpy().astype(np.float16)
            for n, latent in enumerate(latents, start):
                if not np.isfinite(latent).all():
                    raise BadInput(
                        f"VAE {encoder.name}: the latent of sample {n} of data {data.name} is NaN, Inf or beyond "
                        "float16; use another VAE"
                    )
                add(latent)
            if progress is not None:
                progress(start + len(latents))
        return {}

    name = f"{encoder.hash[:32]}-{replace(data, buckets=()).digest()[:32]}"
    return cached("latents", name, shape, np.float16, count, make).samples
