"""What a device says of itself while it is being measured: how fast it is clocked, and its allocator's peak.

On the CPU the allocator is the system's, whose peak is no plan's own (:mod:`hasten.measure.memory`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

CPUFREQ = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")


def clock_mhz(device: torch.device) -> float | None:
    """The clock now, in MHz: of a GPU's multiprocessors, or the mean over the CPUs that this process may use.

    None where nobody tells: without the driver's library (nvidia-ml-py), or on a system without these files.  A virtual
    machine may report a constant.
    """
    return _cuda_mhz(device) if device.type == "cuda" else _cpu_mhz()


def _cuda_mhz(device: torch.device) -> float | None:
    try:
        return float(torch.cuda.clock_rate(device))
    except (ImportError, RuntimeError):
        return None  # no nvidia-ml-py, or no driver that it can ask
    except Exception as error:
        if type(error).__name__.startswith("NVMLError"):
            return None  # the driver won't tell, as for a slice of a GPU; the class can't be named without the library
        raise


def _cpu_mhz() -> float | None:
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    try:
        each = [int((CPUFREQ / f"cpu{i}/cpufreq/scaling_cur_freq").read_text()) / 1e3 for i in mine]
    except (OSError, ValueError):
        each = _cpuinfo_mhz(set(mine))
    return sum(each) / len(each) if each else None


def _cpuinfo_mhz(mine: set[int]) -> list[float]:
    try:
        text = CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.findall(r"^processor\s*:\s*(\d+)$.*?^cpu MHz\s*:\s*([\d.]+)$", text, re.MULTILINE | re.DOTALL)
    return [float(mhz) for number, mhz in found if int(number) in mine]


def allocated_bytes(device: torch.device) -> int | None:
    """Bytes that torch's allocator holds on a CUDA device; None elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def reset_peak(device: torch.device) -> None:
    """Let :func:`peak_allocated_bytes` begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_allocated_bytes(device: torch.device) -> int | None:
    """The most bytes that torch's allocator held on a CUDA device since the last :func:`reset_peak`; None elsewhere."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
