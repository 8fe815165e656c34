"""This machine's own measured peaks, and the time that they set as a bound.

    seconds >= max(flops / peak flops per second, bytes / peak bytes per second)

(Williams, Waterman and Patterson 2009, Comm. ACM 52(4):65, "Roofline").  The bytes bound is that of main memory; what
stays in a cache can beat it.

A precision has a peak of its own only where it beats float32: elsewhere it is emulated (bf16 on a processor without
it runs a hundred times slower), and float32's peak stays the bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial

import torch

from hasten.files import cache_folder, write_text
from hasten.measure.clock import Clock, TooShort, settled

MATMUL_SIZES = (1024, 1536, 2048)
COPY_BYTES = 128 * 2**20
SECONDS_EACH = 0.5
TRIED_SIZE, TRIED_SECONDS = 256, 0.01  # a product of this size that takes longer has no kernel worth measuring


@dataclass(frozen=True)
class Peaks:
    """Multiplications and additions per second, and bytes read plus bytes written per second by a copy.

    None: this machine has no kernel of that precision that is faster than float32's.
    """

    float32_flops_per_second: float
    copy_bytes_per_second: float
    bf16_flops_per_second: float | None = None
    int8_flops_per_second: float | None = None


def peaks(device: str = "cpu", fingerprint: str = "") -> Peaks:
    """The peaks of ``device`` on all threads, measured in about 2 s.

    They are kept on disk under ``fingerprint``, the environment's; without one they are measured each time.
    """
    if not fingerprint:
        return _measure(device)
    key = hashlib.sha256(f"{device}\n{fingerprint}".encode()).hexdigest()[:16]
    path = cache_folder("peaks") / f"{key}.json"
    try:
        kept = json.loads(path.read_text())
        known = Peaks(**kept)
        whole = set(kept) == {field.name for field in fields(Peaks)}  # an earlier version knew fewer precisions
        if whole and known.float32_flops_per_second > 0 and known.copy_bytes_per_second > 0:
            return known
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or damaged: it can be made again
    measured = _measure(device)
    write_text(path, json.dumps(asdict(measured)) + "\n")
    return measured


def bound_seconds(flops: float, num_bytes: float, peaks: Peaks, half_flops: float = 0.0) -> float:
    """The least seconds that the peaks allow for this work; ``half_flops`` of its ``flops`` are in 16 bits."""
    half = half_flops / (peaks.bf16_flops_per_second or peaks.float32_flops_per_second)
    return max((flops - half_flops) / peaks.float32_flops_per_second + half, num_bytes / peaks.copy_bytes_per_second)


@torch.inference_mode()
def _measure(device: str) -> Peaks:
    clock, threads, precision = Clock(device), torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(_cores())
    if clock.device.type == "cuda":  # TF32, which convolutions use there by default
        torch.set_float32_matmul_precision("high")
    try:
        with settled():
            float32, copy = _matmul_peak(clock, _float32_product), _copy_peak(clock)
            lower = (_lower_peak(clock, product, float32) for product in (_bf16_product, _int8_product))
            return Peaks(float32, copy, *lower)
    finally:
        torch.set_num_threads(threads)
        if clock.device.type == "cuda":
            torch.set_float32_matmul_precision(precision)


Product = Callable[[int, torch.device], Callable[[], object]]  # (size, device) to a call that multiplies


def _matmul_peak(clock: Clock, product: Product) -> float:
    seconds = SECONDS_EACH / len(MATMUL_SIZES)
    return max(2 * size**3 / _best(clock, product(size, clock.device), seconds) for size in MATMUL_SIZES)


def _lower_peak(clock: Clock, product: Product, float32: float) -> float | None:
    try:
        tried = product(TRIED_SIZE, clock.device)
        tried()
        if not _quick(clock, tried):
            return None
        peak = _matmul_peak(clock, product)
    except (RuntimeError, AttributeError):  # what torch raises for a kernel that this device or build lacks
        return None
    return peak if peak > float32 else None


def _quick(clock: Clock, tried: Callable[[], object]) -> bool:
    """Whether it is worth while to try larger ones."""
    try:
        return clock.time(tried)[0] <= TRIED_SECONDS
    except TooShort:
        return True


def _float32_product(size: int, device: torch.device) -> Callable[[], object]:
    a, b = (torch.rand(size, size, device=device) for _ in range(2))
    return partial(torch.mm, a, b, out=torch.empty_like(a))


def _bf16_product(size: int, device: torch.device) -> Callable[[], object]:
    a, b = (torch.rand(size, size, device=device).bfloat16() for _ in range(2))
    return partial(torch.mm, a, b, out=torch.empty_like(a))


def _int8_product(size: int, device: torch.device) -> Callable[[], object]:
    """torch's own int8 kernels: on a CPU _int_mm has none, but the quantised linear layer's product does."""
    weight = torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device)
    if device.type != "cpu":
        return partial(torch._int_mm, weight, weight.t())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensors of quantised dtypes are to go some day; these ops are still there
        x = torch._make_per_tensor_quantized_tensor(weight.int().add(128).to(torch.uint8), 1.0, 128)
        packed = torch.ops.quantized.linear_prepack(torch._make_per_tensor_quantized_tensor(weight, 1.0, 0), None)
    return partial(torch.ops.quantized.linear, x, packed, float(size), 128)


def _copy_peak(clock: Clock) -> float:
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=clock.device)
    target = torch.ones_like(source)
    return 2 * COPY_BYTES / _best(clock, lambda: target.copy_(source), SECONDS_EACH)


def _best(clock: Clock, call: Callable[[], object], seconds: float) -> float:
    """The least seconds of a call, tried for about ``seconds`` and at least twice."""
    best, end = clock.time(call)[0], time.perf_counter() + seconds
    while True:
        best = min(best, clock.time(call)[0])
        if time.perf_counter() >= end:
            return best


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
