"""From a name to data, and from the number of a batch to the batch.

Batch ``k`` of a run is a pure function of (data, seed, k): any can be made again, alone, by any thread.  So workers
only make earlier what would be made anyway, and a resumed run asks for its next number.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hasten.data.array import Data, as_float
from hasten.errors import BadInput, did_you_mean
from hasten.seeds import Stream, stream

if TYPE_CHECKING:  # names are answered before torch is imported
    import torch

    from hasten.data.augment import Augment

NAMES = ("emoji", "digits", "folder")
DEPTH = 2  # batches that each worker keeps ready


def by_name(
    name: str,
    size: int | tuple[int, int],
    path: Path | str | None = None,
    channels: int = 3,
    skip_bad: bool = False,
    *,
    buckets: bool = False,
    multiple: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Data:
    """Data at ``size`` pixels: ``emoji``, ``digits``, ``folder`` (at ``path``), or a folder's own path as the name.

    ``size``: of squares, or (height, width), which digits are not made in.  ``channels``: 3 or 1; digits have one.
    ``skip_bad``, ``buckets`` and ``multiple`` are for folders.  ``progress(done, total)`` is called while pictures are
    decoded.  Raises BadInput for a name that is none of these.
    """
    if name == "emoji":
        from hasten.data import emoji

        return replace(emoji.load(size, progress, channels), again=name)
    if name == "digits":
        from hasten.data import digits

        high, wide = (size, size) if isinstance(size, int) else size
        if high != wide:
            raise BadInput(f"digits are squares, {high}x{wide} was asked for; use emoji, or a folder of pictures")

        return replace(digits.load(high), again=name)
    if name == "folder" and path is None:
        raise BadInput("data = 'folder' needs a path; add it")
    where = Path(name if path is None else path)
    if path is None and not where.is_dir():
        raise BadInput(f"data {name!r} is no folder and no known name{did_you_mean(name, NAMES)}")
    from hasten.data import folder

    found = folder.load(where, size, channels, skip_bad, buckets=buckets, multiple=multiple, progress=progress)
    return replace(found, again=str(where))


@functools.lru_cache(maxsize=2)
def _order(samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    order = stream(Stream.ORDER, seed, epoch).permutation(samples)
    order.setflags(write=False)  # all who ask get the same array
    return order


def batch_indices(step: int, batch_size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which samples (batch_size,) step ``step`` takes: a permutation by (seed, epoch), its remainder dropped."""
    epoch, place = divmod(step, count // batch_size)
    return _order(count, seed, epoch)[place * batch_size : (place + 1) * batch_size].copy()


@dataclass(frozen=True)
class Batch:
    """``samples`` (n, *shape) float32, pictures in [-1, 1], and ``labels`` (n,) int64, both on the loader's device.

    ``number``: which batch of the run; ``content``: the number of the first one that is the same; ``ids`` (n,): which
    samples of the data; ``waited_seconds``: how long whoever asked had to wait.
    """

    number: int
    content: int
    ids: NDArray[np.int64]
    samples: torch.Tensor
    labels: torch.Tensor
    waited_seconds: float


class Loader:
    """The batches of a part of ``data``, shuffled anew in each epoch, the remainder dropped.

    With buckets, a batch comes from one of them; each bucket has as many batches an epoch as it fills, in mixed order.
    ``augment`` draws anew for each batch.  ``workers`` threads keep up to DEPTH batches each ready, 0: none are
    made ahead.  After ``period`` batches the first one comes again, None: never.  ``notes``: a line on buckets that
    don't fill a batch, and are never seen.
    Raises BadInput when there is less than one batch, and for an augmentation that the samples can't take.
    """

    def __init__(
        self,
        data: Data,
        batch_size: int,
        seed: int,
        *,
        held_out: bool = False,
        device: torch.device | str = "cpu",
        workers: int = 0,
        augment: Augment | None = None,
        period: int | None = None,
    ) -> None:
        import torch

        self.buckets = data.buckets or (data,)
        self.batch_size, self.seed, self.workers, self.period = batch_size, seed, workers, period
        self.device, self.augment = torch.device(device), augment or None
        self.parts = [bucket.ids(held_out) for bucket in self.buckets]
        self.batches_per_epoch = sum(len(part) // batch_size for part in self.parts)
        total = sum(len(part) for part in self.parts)
        if self.batches_per_epoch == 0:
            kind = "held-out" if held_out else "training"
            raise BadInput(
                f"data {data.name} has {total} {kind} samples, the batch size is {batch_size}: "
                "0 batches per epoch; use a smaller train.batch_size"
            )
        for bucket, part in zip(self.buckets, self.parts, strict=True):
            if self.augment and len(part) >= batch_size:
                self.augment.check(bucket.shape, data.name)
        small = [len(part) for part in self.parts if len(part) < batch_size]
        self.notes = (
            (f"data {data.name}: {sum(small)} of {total} samples are in {len(small)} buckets of less than a batch, "
             "and are left out; use a smaller train.batch_size",)
            if small else ()
        )  # fmt: skip
        self.starts = np.cumsum([0, *(len(bucket.samples) for bucket in self.buckets)])
        self._epoch = functools.lru_cache(maxsize=2)(self._make_epoch)

    def batch(self, number: int) -> Batch:
        """Batch ``number`` of the run, made here and now."""
        began = time.perf_counter()
        return replace(self._make(number), waited_seconds=time.perf_counter() - began)

    @contextmanager
    def from_(self, number: int) -> Iterator[Iterator[Batch]]:
        """All batches from ``number`` on, without end; the same ones to the bit, whatever ``workers`` is.

        What goes wrong in a worker is raised here, when its batch's turn comes.  Leaving the context ends the workers.
        """
        if self.workers == 0:
            yield map(self.batch, count(number))
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="loader") as pool:
            try:
                numbers = count(number)
                ready = deque(pool.submit(self._make, next(numbers)) for _ in range(self.workers * DEPTH))
                yield self._ahead(pool, ready, numbers)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _ahead(self, pool: ThreadPoolExecutor, ready: deque[Future[Batch]], numbers: Iterator[int]) -> Iterator[Batch]:
        while True:
            began = time.perf_counter()
            batch = ready.popleft().result()
            waited = time.perf_counter() - began
            ready.append(pool.submit(self._make, next(numbers)))
            yield replace(batch, waited_seconds=waited)

    def _make_epoch(self, epoch: int) -> NDArray[np.int64]:
        """Which samples each batch (batches, batch_size) of an epoch has, numbered through all buckets."""
        size = self.batch_size
        rows: list[NDArray[np.int64]] = []
        for n, (part, start) in enumerate(zip(self.parts, self.starts, strict=False)):
            bucket = (n,) if n else ()
            order = stream(Stream.ORDER, self.seed, epoch, *bucket).permutation(len(part))
            rows.append(start + part[order[: len(part) // size * size]].reshape(-1, size))
        if len(rows) == 1:
            return rows[0]
        mixed: NDArray[np.int64] = stream(Stream.ORDER, self.seed, epoch, len(rows)).permutation(np.concatenate(rows))
        return mixed

    def _make(self, number: int) -> Batch:
        import torch

        content = number % self.period if self.period else number
        epoch, place = divmod(content, self.batches_per_epoch)
        ids = self._epoch(epoch)[place]
        at = int(np.searchsorted(self.starts, ids[0], side="right")) - 1
        bucket, own = self.buckets[at], ids - self.starts[at]
        samples = bucket.samples[own]
        if self.augment:
            samples = self.augment.apply(samples, stream(Stream.AUGMENTATION, self.seed, content))
        labels = torch.from_numpy(bucket.labels[own])
        return Batch(number, content, ids, self._on_device(samples), self._to(labels), 0.0)

    def _on_device(self, samples: NDArray[Any]) -> torch.Tensor:
        """``samples`` as float32 on the device: a GPU is sent bytes, and looks up what each stands for."""
        import torch

        if self.device.type == "cpu" or samples.dtype != np.uint8:
            return self._to(torch.from_numpy(as_float(samples)))
        values = torch.from_numpy(as_float(np.arange(256, dtype=np.uint8))).to(self.device)
        return values[self._to(torch.from_numpy(samples)).int()]

    def _to(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device.type == "cuda":  # only from pinned memory does a copy run beside the computation
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
