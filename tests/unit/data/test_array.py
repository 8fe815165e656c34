"""Data: range, parts, split, digest."""

import zlib
from dataclasses import replace

import numpy as np
import pytest

from hasten.data.array import Data, as_float, split
from hasten.errors import BadInput


def data(count: int = 20) -> Data:
    samples = np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2)
    return Data("d", samples, np.arange(count), ("a",), split([str(i) for i in range(count)]))


def test_pictures_become_minus_one_to_one() -> None:
    assert as_float(np.array([0, 255], dtype=np.uint8)).tolist() == [-1.0, 1.0]
    assert as_float(np.array([0.25, 7.0], dtype=np.float32)).tolist() == [0.25, 7.0]
    assert as_float(np.array([3], dtype=np.uint8)).dtype == np.float32


def test_the_parts_are_disjoint_and_whole() -> None:
    d = data()
    train, held = d.part(False)[1], d.part(True)[1]
    assert sorted([*train, *held]) == list(range(20))
    assert len(held) == d.held_out.sum() > 0
    assert d.shape == (1, 2, 2)


def test_lengths_must_agree() -> None:
    with pytest.raises(BadInput, match="3 samples, 2 labels, 3 split marks"):
        Data("d", np.zeros((3, 1), np.uint8), np.zeros(2, np.int64), ("a",), np.zeros(3, bool))


def test_a_key_s_side_depends_on_nothing_but_the_key() -> None:
    keys = [f"k{i}" for i in range(5000)]
    whole = split(keys)
    assert (split(keys[::-1])[::-1] == whole).all()
    assert whole.mean() == pytest.approx(0.1, abs=0.02)
    assert whole[:50].tolist() == [zlib.crc32(key.encode()) % 10_000 < 1000 for key in keys[:50]]


def test_two_keys_are_enough_for_both_sides() -> None:
    keys = next([f"a{i}", f"b{i}"] for i in range(100) if not split([f"a{i}", f"b{i}", *"xyz"])[:2].any())
    assert sorted(split(keys).tolist()) == [False, True]


def test_only_what_is_taken_is_converted() -> None:
    d = data()
    ids = np.array([7, 2])
    samples, labels = d.take(ids)
    assert labels.tolist() == [7, 2]
    assert samples.dtype == np.float32
    assert (samples == as_float(d.samples)[ids]).all()
    assert d.ids(True).tolist() == np.flatnonzero(d.held_out).tolist()
    assert d.ids(False).dtype == np.int64


def test_a_capped_part_is_spread_evenly() -> None:
    d = data(200)
    kept = d.part(False, most=10)[1]
    ids = d.ids(False)
    places = np.searchsorted(ids, kept)
    edges = [len(ids) * n // 10 for n in range(11)]
    assert all(low <= place < high for low, place, high in zip(edges, places, edges[1:], strict=False))
    assert len(kept) == 10
    assert kept.tolist() == d.part(False, most=10)[1].tolist()
    assert kept.tolist() != d.part(False, most=10, seed=1)[1].tolist()
    assert len(d.part(False, most=1000)[0]) == len(ids)


def test_a_digest_tells_samples_labels_and_split_apart() -> None:
    d = data()
    other = [
        replace(d, samples=255 - d.samples),
        replace(d, labels=d.labels[::-1]),
        replace(d, held_out=~d.held_out),
        replace(d, buckets=(d, d)),
    ]
    assert len({d.digest(), *(each.digest() for each in other)}) == 5
    assert replace(d, samples=d.samples.copy(), name="else", notes=("n",)).digest() == d.digest()
