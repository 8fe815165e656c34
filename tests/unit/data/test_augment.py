"""Augmentations against plain slicing, one picture at a time."""

import numpy as np
import pytest

from hasten.data.augment import Augment
from hasten.errors import BadInput

PICTURES = np.random.default_rng(0).integers(0, 256, (64, 3, 6, 6), dtype=np.uint8)


def augmented(augment: Augment, pictures=PICTURES, seed: int = 1):
    return augment.apply(pictures, np.random.default_rng(seed))


def which(sample, variants) -> int:
    """Which of the variants the sample is."""
    found = [n for n, variant in enumerate(variants) if (sample == variant).all()]
    assert len(found) == 1
    return found[0]


def test_half_are_mirrored() -> None:
    found = [which(a, (p, p[:, :, ::-1])) for a, p in zip(augmented(Augment(flip=True)), PICTURES, strict=True)]
    assert 20 < sum(found) < 44


def test_all_eight_symmetries_are_drawn() -> None:
    def symmetries(p):
        turned = [np.rot90(p, k, (1, 2)) for k in range(4)]
        return [*turned, *(t[:, :, ::-1] for t in turned)]

    found = [which(a, symmetries(p)) for a, p in zip(augmented(Augment(turn=True)), PICTURES, strict=True)]
    assert set(found) == set(range(8))


def test_shifts_reach_all_of_their_range_and_repeat_the_edge() -> None:
    def shifts(p):
        padded = np.pad(p, ((0, 0), (1, 1), (1, 1)), mode="edge")
        return [padded[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]

    found = [which(a, shifts(p)) for a, p in zip(augmented(Augment(shift=1)), PICTURES, strict=True)]
    assert set(found) == set(range(9))


def test_oblong_pictures_flip_and_shift() -> None:
    oblong = PICTURES[:, :, :4]
    found = augmented(Augment(flip=True, shift=3), oblong)
    assert found.shape == oblong.shape
    assert (np.sort(np.unique(found)) == np.unique(found)).all()
    constant = np.broadcast_to(np.arange(64, dtype=np.float32)[:, None, None, None], oblong.shape)
    assert (augmented(Augment(flip=True, shift=3), constant) == constant).all()  # no picture gets another's pixels


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
def test_the_type_stays_and_the_original_too(dtype) -> None:
    pictures = PICTURES.astype(dtype)
    pictures.setflags(write=False)
    found = augmented(Augment(flip=True, turn=True, shift=2), pictures)
    assert found.dtype == dtype
    assert (found == augmented(Augment(flip=True, turn=True, shift=2))).all()
    assert (found != augmented(Augment(flip=True, turn=True, shift=2), seed=2)).any()


def test_nothing_by_default() -> None:
    assert not Augment()
    assert (augmented(Augment()) == PICTURES).all()
    Augment().check((5,), "d")


@pytest.mark.parametrize(
    ("augment", "shape", "why"),
    [
        (Augment(flip=True), (3, 8), "no pictures"),
        (Augment(shift=1), (1, 8, 8, 8), "no pictures"),
        (Augment(turn=True), (3, 8, 6), "8x6, only square"),
        (Augment(shift=-1), (3, 8, 8), "shift = -1 is out of range"),
        (Augment(shift=6), (3, 8, 6), "shift = 6 is out of range for data d; 0 to 5"),
    ],
)
def test_what_can_t_be_augmented(augment, shape, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        augment.check(shape, "d")
