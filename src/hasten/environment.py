"""Where a figure was measured, in words that can be compared; and keeping dependencies from calling home.

Imports nothing heavy: ``hasten --help`` and the start of every process pass through here.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hasten.errors import BadInput
from hasten.files import size

PACKAGES = ("torch", "diffusers", "openvino", "nncf", "numpy", "safetensors")
CPU_FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "amx_tile"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)
TIMED = ("cpu", "cpu_flags", "cores", "threads", "gpu", "python")
TIMED_PACKAGES = ("torch", "diffusers", "openvino", "nncf", "numpy")
SILENT = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1", "NNCF_CI": "1"}


def python_child(*words: str) -> list[str]:
    """The command of a Python process that runs none of the code in the folder a person stands in (``-P``)."""
    return [sys.executable, "-P", *words]


def quiet() -> None:
    """Turn the telemetry of dependencies off, in this process and its children; call it before they are imported.

    ``import openvino`` and ``import nncf`` send events without asking and write a client id to ``~/intel``, unless
    openvino_telemetry can't be imported; so it can't be.  NNCF_CI alone stops NNCF's events, but not the id, and only
    CI=true, which other programs read too, would stop both.  huggingface_hub reads the other variables.  A user without
    an entry in the system's list gets a name, which torch's compiler asks for.
    """
    os.environ.update(SILENT)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}" if hasattr(os, "getuid") else "nobody"
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def environment() -> dict[str, Any]:
    """This machine and installation, ready for JSON.  Imports torch to ask for the GPU; None is what is not known.

    Keys: ``cpu``, ``cpu_flags`` (those that inference kernels use), ``cores`` (that this process may use), ``threads``
    (OMP_NUM_THREADS), ``memory_bytes``, ``gpu`` (None, or ``name``, ``memory_bytes``, ``capability``, ``cuda``),
    ``os``, ``python``, ``packages`` (name to version) and ``commit`` (of hasten's own checkout).
    """
    model, flags = _cpu()
    return {
        "cpu": model,
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "gpu": _gpu(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(Path(__file__).resolve().parents[2]),
    }


def fingerprint(env: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of what timings depend on: processor, threads, GPU, Python and the engines' versions."""
    packages = env.get("packages") or {}
    timed = {key: env.get(key) for key in TIMED} | {name: packages.get(name) for name in TIMED_PACKAGES}
    return hashlib.sha256(json.dumps(timed, sort_keys=True).encode()).hexdigest()[:12]


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What differs between ``a`` (here) and ``b`` (there), a line each: ``"torch 2.13.0 here, 2.11.0 there"``."""
    here, there = _flat(a), _flat(b)
    names = [*here, *(name for name in there if name not in here)]
    return [
        f"{name} {here.get(name, 'none')} here, {there.get(name, 'none')} there"
        for name in names
        if here.get(name) != there.get(name)
    ]


def devices() -> list[str]:
    """What torch can compute on here: ``cpu``, ``cuda:0`` and so on, ``xpu:0``, ``mps``.  Imports torch."""
    import torch

    there = [f"{kind}:{i}" for kind in ("cuda", "xpu") for i in range(getattr(torch, kind).device_count())]
    return ["cpu", *there, *(["mps"] if torch.backends.mps.is_available() else [])]


def int8_products() -> str:
    """How this CPU multiplies INT8, in words.  Imports torch."""
    import torch

    if torch.cpu._is_vnni_supported():  # which torchao asks too
        return "VNNI here: 8 bits"
    return "no VNNI: 7 bits, about half the speed"


def check_device(device: str) -> None:
    """Raise BadInput that says what there is, when ``device`` (``cuda`` means ``cuda:0``) is not on this machine."""
    there = devices()
    if device not in there and f"{device}:0" not in there:
        raise BadInput(f"there is no device {device!r} on this machine; use {' or '.join(there)}")


def _flat(env: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in env.items():
        name = "" if key == "packages" else key.removesuffix("_bytes").replace("_", " ")
        if isinstance(value, Mapping):
            flat |= {f"{name} {inner}".strip(): text for inner, text in _flat(value).items()}
        elif isinstance(value, list):
            flat[name] = " ".join(map(str, value)) or "none"
        elif value is not None:
            flat[name] = size(value) if key.endswith("_bytes") else str(value)
    return flat


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and its flags."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), set()
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine(), set(flags[1].split()) if flags else set()


def _gpu() -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
        "count": torch.cuda.device_count(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit of the checkout at ``root``, with ``-dirty`` when files differ from it; None when it is none."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
