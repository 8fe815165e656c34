"""Latents are encoded once, in order, for each bucket; with an encoder that averages 2x2 pixels."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from hasten.data import digits, latents
from hasten.data.loader import Loader
from hasten.errors import BadInput

DIGITS = replace(
    digits.load(), samples=digits.load().samples[:50], labels=np.arange(50), held_out=np.arange(50) % 5 == 0
)


@dataclass
class Halving:
    """Averages 2x2 pixels, times ``scale``."""

    scale: float = 1.0
    name: str = "halving"
    batches: list[int] = field(default_factory=list)

    @property
    def hash(self) -> str:
        return f"{self.scale:032}"

    def latent_shape(self, shape):
        return (shape[0], shape[1] // 2, shape[2] // 2)

    def encode(self, pictures):
        self.batches.append(len(pictures))
        return torch.nn.functional.avg_pool2d(pictures, 2) * self.scale


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))


def expected(data) -> np.ndarray:
    pictures = torch.from_numpy(data.take(np.arange(len(data.samples)))[0])
    return torch.nn.functional.avg_pool2d(pictures, 2).numpy().astype(np.float16)


def test_encoded_once_for_each_encoder_and_data() -> None:
    encoder, told = Halving(), []
    for _ in range(2):
        made = latents.encoded(DIGITS, encoder, lambda *done: told.append(done))
        assert made.samples.dtype == np.float16
        assert (made.samples == expected(DIGITS)).all()
    assert encoder.batches == [16, 16, 16, 2]
    assert told == [(16, 50), (32, 50), (48, 50), (50, 50)]
    assert made.shape == (1, 4, 4)
    assert (made.labels == DIGITS.labels).all()
    assert (made.held_out == DIGITS.held_out).all()
    other = Halving(scale=2.0)
    doubled = latents.encoded(DIGITS, other).samples
    assert np.allclose(doubled, 2 * expected(DIGITS), rtol=1e-3, atol=1e-6)
    inverted = replace(DIGITS, samples=255 - DIGITS.samples)
    assert (latents.encoded(inverted, encoder).samples == expected(inverted)).all()


def test_a_loader_gives_them_as_float32() -> None:
    batch = Loader(latents.encoded(DIGITS, Halving()), 8, seed=0, workers=2).batch(2)
    assert batch.samples.dtype == torch.float32
    assert (batch.samples.numpy() == expected(DIGITS)[batch.ids].astype(np.float32)).all()


def test_each_bucket_apart() -> None:
    wide = replace(DIGITS, samples=np.concatenate([DIGITS.samples, DIGITS.samples[:, :, ::-1]], axis=3))
    both = replace(DIGITS, buckets=(DIGITS, wide))
    told = []
    made = latents.encoded(both, Halving(), lambda *done: told.append(done))
    assert [b.shape for b in made.buckets] == [(1, 4, 4), (1, 4, 8)]
    assert made.samples is made.buckets[0].samples
    assert (made.buckets[1].samples == expected(wide)).all()
    assert told[-1] == (100, 100)


@pytest.mark.parametrize("scale", [float("nan"), 1e6])
def test_a_latent_that_can_t_be_held(scale: float, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"the latent of sample 0 of data digits is NaN, Inf or beyond float16"):
        latents.encoded(DIGITS, Halving(scale))
    assert list((tmp_path / "latents").iterdir()) == []
