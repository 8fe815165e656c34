"""Batches: pure by number, alike with any workers, each sample once an epoch, errors and endings."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from hasten.data import digits
from hasten.data.array import Data, as_float
from hasten.data.augment import Augment
from hasten.data.loader import Loader, batch_indices
from hasten.errors import BadInput

DIGITS = digits.load()


def same(a, b) -> bool:
    return (
        a.number == b.number
        and a.ids.tolist() == b.ids.tolist()
        and a.samples.numpy().tobytes() == b.samples.numpy().tobytes()
        and a.labels.tolist() == b.labels.tolist()
    )


def taken(loader: Loader, number: int, how_many: int) -> list:
    with loader.from_(number) as batches:
        return [next(batches) for _ in range(how_many)]


@pytest.mark.parametrize("augment", [None, Augment(flip=True, shift=1)])
@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_alike_whatever_the_workers_and_the_start(workers: int, augment) -> None:
    loader = Loader(DIGITS, 32, seed=3, workers=workers, augment=augment)
    alone = Loader(DIGITS, 32, seed=3, augment=augment)
    first = loader.batches_per_epoch - 3  # over the epoch's edge
    for n, batch in enumerate(taken(loader, first, 8), first):
        assert same(batch, alone.batch(n))
        assert batch.waited_seconds >= 0


def test_a_batch_is_what_its_ids_say_in_the_order_of_old() -> None:
    loader = Loader(DIGITS, 32, seed=3)
    train = DIGITS.ids(False)
    for number in (0, 7, loader.batches_per_epoch + 2):
        batch = loader.batch(number)
        assert batch.ids.tolist() == train[batch_indices(number, 32, len(train), 3)].tolist()
        samples, labels = DIGITS.take(batch.ids)
        assert batch.samples.dtype == torch.float32
        assert batch.samples.numpy().tobytes() == samples.tobytes()
        assert batch.labels.tolist() == labels.tolist()
        assert batch.labels.dtype == torch.int64


def test_an_epoch_has_each_sample_once_and_another_order_follows() -> None:
    loader = Loader(DIGITS, 32, seed=0, workers=2)
    epoch = loader.batches_per_epoch
    ids = [batch.ids for batch in taken(loader, 0, 2 * epoch)]
    first, second = np.concatenate(ids[:epoch]), np.concatenate(ids[epoch:])
    assert len(set(first.tolist())) == len(first) == epoch * 32
    assert not DIGITS.held_out[first].any()
    assert first.tolist() != second.tolist()
    assert first.tolist() != np.concatenate([Loader(DIGITS, 32, seed=1).batch(n).ids for n in range(epoch)]).tolist()


def test_the_held_out_part() -> None:
    assert DIGITS.held_out[Loader(DIGITS, 32, seed=0, held_out=True).batch(1).ids].all()


def test_the_order_is_drawn_once_an_epoch(monkeypatch) -> None:
    loader = Loader(DIGITS, 32, seed=0)
    drawn = []
    original = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda *a: drawn.append(a) or original(*a))
    for number in range(loader.batches_per_epoch):
        loader.batch(number)
    assert len(drawn) == 1
    drawn.clear()
    for number in range(50):
        batch_indices(number, 10, 500, seed=987)
    assert len(drawn) == 1
    batch_indices(0, 10, 500, seed=987)[:] = 0  # the caller's own, not the epoch's
    assert batch_indices(0, 10, 500, seed=987).any()


def test_augmentation_is_drawn_anew_for_each_batch() -> None:
    twins = replace(DIGITS, samples=np.broadcast_to(DIGITS.samples[:1], DIGITS.samples.shape))
    loader = Loader(twins, 64, seed=0, augment=Augment(shift=3))
    batches = [loader.batch(n).samples.numpy() for n in range(3)]
    assert all((batches[0] != other).any() for other in batches[1:])
    assert (loader.batch(1).samples.numpy() == batches[1]).all()


def test_floats_stay_as_they_are() -> None:
    floats = replace(DIGITS, samples=(DIGITS.samples * 3.0).astype(np.float16))
    batch = Loader(floats, 8, seed=0).batch(0)
    assert batch.samples.dtype == torch.float32
    assert (batch.samples.numpy() == floats.samples[batch.ids].astype(np.float32)).all()


def test_bytes_sent_to_another_device_mean_the_same_there(monkeypatch) -> None:
    """A GPU is sent bytes from pinned memory, without waiting, and looks up the values."""
    loader, moved = Loader(DIGITS, 8, seed=0), []
    expected = loader.batch(0).samples
    to = torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: moved.append(["pinned", tensor.dtype]) or tensor)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda tensor, device, **how: moved.append([str(device), how]) or to(tensor, "cpu")
    )
    loader.device = torch.device("cuda")
    batch = loader.batch(0)
    assert (batch.samples == expected).all()
    assert [m for m in moved if m[0] == "pinned"] == [["pinned", torch.uint8], ["pinned", torch.int64]]
    assert [how for where, how in moved if where == "cuda"].count({"non_blocking": True}) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_bits() -> None:
    batches = [Loader(DIGITS, 32, seed=0, device=d, workers=2).batch(3) for d in ("cpu", "cuda")]
    assert batches[1].samples.is_cuda
    assert (batches[0].samples == batches[1].samples.cpu()).all()
    assert (batches[0].labels == batches[1].labels.cpu()).all()


def test_less_than_a_batch() -> None:
    count = len(DIGITS.ids(False))
    with pytest.raises(
        BadInput,
        match=f"data digits has {count} training samples, the batch size is 2000: 0 batches per epoch; "
        r"use a smaller train\.batch_size",
    ):
        Loader(DIGITS, 2000, seed=0)
    with pytest.raises(BadInput, match="held-out samples, the batch size is 1000"):
        Loader(DIGITS, 1000, seed=0, held_out=True)


def test_an_augmentation_that_does_not_fit() -> None:
    with pytest.raises(BadInput, match="out of range"):
        Loader(DIGITS, 8, seed=0, augment=Augment(shift=8))


class Boom(Exception):
    """A worker's own."""


class Failing(Loader):
    """Fails at batch 3; counts what is made."""

    made: list[int]

    def _make(self, number: int):
        self.made.append(number)
        if number == 3:
            raise Boom(number)
        return super()._make(number)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_when_its_batch_is_due(workers: int) -> None:
    loader = Failing(DIGITS, 8, seed=0, workers=workers)
    loader.made = []
    with loader.from_(0) as batches:
        assert [next(batches).number for _ in range(3)] == [0, 1, 2]
        with pytest.raises(Boom):
            next(batches)


def loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("loader")]


def test_leaving_ends_the_workers_and_no_more_is_made_than_the_depth() -> None:
    loader = Failing(DIGITS, 8, seed=0, workers=2)
    loader.made = []
    with loader.from_(10) as batches:
        next(batches)
        deadline = time.monotonic() + 10
        while len(loader.made) < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sorted(loader.made) == list(range(10, 15))  # four ahead of the one taken
        assert loaders()
    assert not loaders()
    with pytest.raises(Boom), loader.from_(10):
        raise Boom
    assert not loaders()


def bucketed(*counts: int) -> Data:
    """Buckets of so many training samples each, of widths 4, 5, ...; a sample's value is its own number."""
    buckets, start = [], 0
    for n, count in enumerate(counts):
        samples = np.broadcast_to(
            np.arange(start, start + count, dtype=np.uint8)[:, None, None, None], (count, 1, 4, 4 + n)
        )
        labels = np.arange(start, start + count)
        buckets.append(Data("b", samples, labels, ("a",), np.zeros(count, np.bool_)))
        start += count
    return replace(buckets[0], buckets=tuple(buckets))


class TestBuckets:
    def test_a_batch_is_of_one_shape_and_an_epoch_of_all(self) -> None:
        loader = Loader(bucketed(50, 23, 17), 5, seed=0, workers=2)
        assert loader.batches_per_epoch == 10 + 4 + 3
        batches = taken(loader, 0, 2 * 17)
        for epoch in (batches[:17], batches[17:]):
            widths = [batch.samples.shape[-1] for batch in epoch]
            assert [widths.count(w) for w in (4, 5, 6)] == [10, 4, 3]
            assert widths != sorted(widths)
            ids = np.concatenate([batch.ids for batch in epoch])
            assert len(set(ids.tolist())) == 85
        for batch in batches:
            assert batch.labels.tolist() == batch.ids.tolist()
            assert (batch.samples.numpy()[:, 0, 0, 0] == as_float(batch.ids.astype(np.uint8))).all()
        assert [b.ids.tolist() for b in batches[:17]] != [b.ids.tolist() for b in batches[17:]]
        assert loader.notes == ()

    def test_a_bucket_of_less_than_a_batch_is_named(self) -> None:
        loader = Loader(bucketed(50, 4, 3), 5, seed=0)
        assert loader.batches_per_epoch == 10
        assert loader.notes == (
            "data b: 7 of 57 samples are in 2 buckets of less than a batch, and are left out; "
            "use a smaller train.batch_size",
        )
        assert {loader.batch(n).samples.shape[-1] for n in range(20)} == {4}

    def test_one_bucket_is_plain_data(self) -> None:
        one = bucketed(50)
        plain = replace(one, buckets=())
        assert same(Loader(one, 5, seed=2).batch(13), Loader(plain, 5, seed=2).batch(13))
