"""Safetensors in, a float32 network out: no more is allocated than the files' own size.

A network is first built without memory (torch's meta device), and its shapes compared with the files' headers
(:mod:`hasten.model.header`).  So neither a broken file nor an absurd config costs more.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hasten.errors import BadInput, shown
from hasten.files import sha256
from hasten.model.checked import FETCH_AGAIN
from hasten.model.config import FolderSpec
from hasten.model.header import EXPONENT, check_header, headers, match, modern_name

if TYPE_CHECKING:  # torch takes a second to import, and bad input is to be answered before
    import torch

CHUNK_BYTES = 1 << 24


def load_weights(spec: FolderSpec) -> dict[str, torch.Tensor]:
    """All tensors of the folder in float32 on the CPU, by today's names.

    Copies, so that the files may change afterwards.  Raises BadInput as :func:`headers` does, and for NaN and Inf.
    """
    headers(spec.weight_files)
    _check_finite(spec.weight_files)
    return _load(spec.weight_files)


def build_network(spec: FolderSpec) -> torch.nn.Module:
    """The folder's network with its weights: float32, on the CPU, in eval mode; draws no random numbers.

    A folder read without weights gives a network without any: its tensors have shapes and no values ("meta").  Raises
    BadInput as :func:`match` and :func:`load_weights` do, before a tensor of the config's making is allocated.
    """
    found = headers(spec.weight_files)
    _check_finite(spec.weight_files)

    import torch
    from diffusers import UNet2DModel

    try:
        with torch.device("meta"), warnings.catch_warnings(action="ignore"):
            network: torch.nn.Module = UNet2DModel(**spec.network_config)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"{spec.folder}: diffusers can't build the network of config.json ({reason}); correct it"
        ) from error
    if not spec.weight_files:
        return network.eval()
    match({name: tuple(value.shape) for name, value in network.state_dict().items()}, found, str(spec.folder))
    network.load_state_dict(_load(spec.weight_files), assign=True)
    return network.eval()


def weight_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the files' names, relative to the folder they share, and contents; 64 hexadecimal digits."""
    paths = [Path(file) for file in files]
    shared = os.path.commonpath([path.parent for path in paths])
    digest = hashlib.sha256()
    try:
        for name, path in sorted((path.relative_to(shared).as_posix(), path) for path in paths):
            digest.update(f"{sha256(path)}  {name}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise BadInput(f"{error.filename} can't be read ({error.strerror}); check the file") from error
    return digest.hexdigest()


def _check_finite(files: Sequence[Path]) -> None:
    """Raises BadInput with the tensor and the count when weights are NaN or Inf; reads 16 MiB at a time."""
    counts: Counter[tuple[str, Path]] = Counter()
    for path in files:
        tensors = check_header(path)
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            for name, info in tensors.items():
                kind, exponent = EXPONENT[info.dtype]
                file.seek(start + info.begin)
                for place in range(info.begin, info.end, CHUNK_BYTES):
                    bits = np.frombuffer(file.read(min(CHUNK_BYTES, info.end - place)), kind)
                    counts[name, path] += int(np.count_nonzero((bits & exponent) == exponent))
    bad = [key for key, count in counts.items() if count]
    if bad:
        name, path = bad[0]
        total = f"; {len(bad)} tensors hold such values in all" if len(bad) > 1 else ""
        raise BadInput(
            f"{path}: tensor {shown(name)} holds {counts[bad[0]]} NaN or Inf{total}; use an earlier checkpoint"
        )


def _load(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    for path in files:
        try:
            loaded = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise BadInput(f"{path} can't be read ({' '.join(str(error).split())[:200]}); {FETCH_AGAIN}") from error
        weights |= {modern_name(name): tensor.to(torch.float32, copy=True) for name, tensor in loaded.items()}
    return weights
