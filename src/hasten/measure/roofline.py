"""This machine's own measured peaks, and the time that they set as a bound.

    seconds >= max(flops / peak flops per second, bytes / peak bytes per second)

(Williams, Waterman and Patterson 2009, Comm. ACM 52(4):65, "Roofline").  The bytes bound is that of main memory; what
stays in a cache can beat it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch

from hasten.files import cache_folder, write_text
from hasten.measure.clock import Clock, settled

MATMUL_SIZES = (1024, 1536, 2048)
COPY_BYTES = 128 * 2**20
SECONDS_EACH = 0.5
TOLERANCE = 1.05  # a peak is the best of some tries, so a little more may be possible


@dataclass(frozen=True)
class Peaks:
    """float32 multiplications and additions per second, and bytes read plus bytes written per second by a copy."""

    float32_flops_per_second: float
    copy_bytes_per_second: float


def peaks(device: str = "cpu", fingerprint: str = "") -> Peaks:
    """The peaks of ``device`` on all threads, measured in about 1 s.

    They are kept on disk under ``fingerprint``, the environment's; without one they are measured each time.
    """
    if not fingerprint:
        return _measure(device)
    key = hashlib.sha256(f"{device}\n{fingerprint}".encode()).hexdigest()[:16]
    path = cache_folder("peaks") / f"{key}.json"
    try:
        found = Peaks(**json.loads(path.read_text()))
        if found.float32_flops_per_second > 0 and found.copy_bytes_per_second > 0:
            return found
    except (OSError, ValueError, TypeError):
        pass  # not there yet, or damaged: it can be made again
    measured = _measure(device)
    write_text(path, json.dumps(asdict(measured)) + "\n")
    return measured


def bound_seconds(flops: float, num_bytes: float, peaks: Peaks) -> float:
    """The least seconds that the peaks allow for this work."""
    return max(flops / peaks.float32_flops_per_second, num_bytes / peaks.copy_bytes_per_second)


def refuse_above_peak(flops: float, seconds: float, peaks: Peaks, multiple: float = 1.0) -> str | None:
    """Why a claim of ``flops`` in ``seconds`` can't be true, or None when it can.

    ``multiple`` is how many times the float32 rate the arithmetic in use may reach: 1 for float32, 4 for int8 on VNNI.
    """
    claimed, peak = flops / seconds, peaks.float32_flops_per_second * multiple
    if claimed <= peak * TOLERANCE:
        return None
    return f"claims {_rate(claimed)}, above this machine's measured peak of {_rate(peak)}"


def _rate(flops_per_second: float) -> str:
    unit, name = (1e12, "TFLOP/s") if flops_per_second >= 1e11 else (1e9, "GFLOP/s")
    return f"{flops_per_second / unit:.2g} {name}"


@torch.inference_mode()
def _measure(device: str) -> Peaks:
    clock, threads, precision = Clock(device), torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(_cores())
    if clock.device.type == "cuda":  # TF32, which convolutions use there by default
        torch.set_float32_matmul_precision("high")
    try:
        with settled():
            return Peaks(_matmul_peak(clock), _copy_peak(clock))
    finally:
        torch.set_num_threads(threads)
        if clock.device.type == "cuda":
            torch.set_float32_matmul_precision(precision)


def _matmul_peak(clock: Clock) -> float:
    rates = []
    for size in MATMUL_SIZES:
        a, b = (torch.rand(size, size, device=clock.device) for _ in range(2))
        product = partial(torch.mm, a, b, out=torch.empty_like(a))
        rates.append(2 * size**3 / _best(clock, product, SECONDS_EACH / len(MATMUL_SIZES)))
    return max(rates)


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
