"""Safetensors in, a float32 network out: whatever is wrong with a file is said before anything large is allocated.

A safetensors file is eight bytes (the header's length, little-endian), a JSON header that gives each tensor's dtype,
shape and place, and the tensors' bytes without a gap; https://huggingface.co/docs/safetensors (format).  The header
is read here in plain Python, and a network is first built without memory (torch's meta device) and its shapes
compared with the headers.  So neither a broken file nor an absurd config costs more than the file's own size.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hasten.errors import BadInput
from hasten.files import sha256

if TYPE_CHECKING:  # torch takes a second to import, and bad input is to be answered before
    import torch

    from hasten.model.config import FolderSpec

Shape = tuple[int, ...]

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit
DTYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
# What a network's weights may be, as unsigned integers, and the exponent bits that are all set in NaN and Inf.
EXPONENT = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
CHUNK_BYTES = 1 << 24
FETCH_AGAIN = "copy or download it again"

# Before diffusers 0.17 attention layers had other names; the best-known UNet2DModel folders still have them.
_OLD_ATTENTION = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)(?=\.)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# For the tensors whose shape a person sets in config.json: what the first two sizes mean, and the key of each.
_FAMILIAR = {
    "conv_in.weight": (("output channels", "block_out_channels"), ("input channels", "in_channels")),
    "conv_out.weight": (("output channels", "out_channels"), ("input channels", "block_out_channels")),
    "class_embedding.weight": (("classes", "num_class_embeds"), ("numbers a class", "time_embedding_dim")),
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as its file's header declares it; ``begin`` and ``end`` are bytes from the end of the header."""

    dtype: str
    shape: Shape
    begin: int
    end: int


def shown(value: object, limit: int = 80) -> str:
    """``repr`` of something foreign, short enough for a one-line message."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def parse_object(text: bytes, where: object) -> dict[str, Any]:
    """A JSON object, in Python's reading: diffusers itself writes ``-Infinity``.

    Raises BadInput when it is broken, is no object, or says a key twice.
    """
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
    except RecursionError:
        raise BadInput(f"{where} is nested too deeply; {FETCH_AGAIN}") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise BadInput(f"{where} is not JSON ({error}); {FETCH_AGAIN}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where} is a JSON {type(value).__name__}, not an object; {FETCH_AGAIN}")
    return value


def check_header(path: Path | str) -> dict[str, TensorInfo]:
    """What a safetensors file holds, once all of it adds up; reads the header and nothing else.

    Raises BadInput for a file that is missing, truncated or has bytes to spare, and for a header that is too long, not
    JSON, or whose tensors have an unknown dtype, a size other than dtype times shape, or places that overlap, leave a
    gap or lie outside the file; with the tensor's name and the bytes expected and found.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path} is missing; {FETCH_AGAIN}")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if start == b"version ":
                raise BadInput(f"{path} is a git-lfs pointer, not the weights; run: git lfs pull")
            if len(start) < 8:
                raise BadInput(f"{path} is truncated: at least 8 bytes expected, {size} found; {FETCH_AGAIN}")
            length = int.from_bytes(start, "little")
            if length > min(size - 8, HEADER_LIMIT):
                limit = f"the file has {size}" if length > size - 8 else f"at most {HEADER_LIMIT} are allowed"
                raise BadInput(f"{path}: the header claims {length} bytes, {limit}; no safetensors file, or truncated")
            text = file.read(length)
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}); check the file") from error
    entries = parse_object(text, f"{path}: the header")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInput(f"{path}: the header's __metadata__ is not an object of strings; {FETCH_AGAIN}")
    tensors = {name: _tensor_info(path, name, entry) for name, entry in entries.items()}
    _check_places(path, tensors, size - 8 - length)
    return tensors


def headers(files: Sequence[Path]) -> dict[str, TensorInfo]:
    """The tensors of all ``files`` together, by today's names.

    Raises BadInput as :func:`check_header` does, for a tensor found twice, and for a dtype that no weights have.
    """
    found: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in check_header(file).items():
            if info.dtype not in EXPONENT:
                raise BadInput(
                    f"{file}: tensor {shown(name)} is {info.dtype}; weights must be {', '.join(EXPONENT)}: convert them"
                )
            if modern_name(name) in found:
                raise BadInput(f"{file}: tensor {shown(name)} is there twice; keep one of the two")
            found[modern_name(name)] = info
    return found


def modern_name(name: str) -> str:
    """A tensor's name in today's diffusers: ``attentions.0.query.weight`` became ``attentions.0.to_q.weight``."""
    return _OLD_ATTENTION.sub(lambda part: part[1] + _NEW_ATTENTION[part[2]], name)


def match(config_shapes: Mapping[str, Shape], weights: Mapping[str, Any], where: str = "weights") -> None:
    """Compare what the config needs with what the files hold: ``weights`` are tensors or TensorInfo, by name.

    Raises BadInput that says which channels differ in the tensors a person knows, else the first five missing and
    unexpected keys and their totals, else the first tensor whose shape differs.
    """
    advice = "use the config.json that belongs to the weights"
    differing = [n for n in config_shapes if n in weights and tuple(weights[n].shape) != config_shapes[n]]
    familiar = [name for name in _FAMILIAR if name in differing]
    missing = _listing("missing", [name for name in config_shapes if name not in weights])
    unexpected = _listing("unexpected", [name for name in weights if name not in config_shapes])
    if not familiar and (missing or unexpected):
        raise BadInput(f"{where}: {'; '.join(filter(None, (missing, unexpected)))}; {advice}")
    if differing:
        name = (familiar or differing)[0]
        total = f"; {len(differing)} tensors differ in all" if len(differing) > 1 and not familiar else ""
        sentence = _difference(name, tuple(weights[name].shape), config_shapes[name])
        raise BadInput(f"{where}: {sentence}{total}; {advice}")


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


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return result


def _tensor_info(path: Path, name: str, entry: object) -> TensorInfo:
    """The header's entry for one tensor, its own numbers checked against each other."""
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadInput(f"{where} needs dtype, shape and data_offsets, and has {shown(entry)}; {FETCH_AGAIN}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise BadInput(f"{where} has the unknown dtype {shown(dtype)}; known: {', '.join(DTYPE_BYTES)}")
    if not _whole(shape) or len(shape) > 16:
        raise BadInput(f"{where} has the shape {shown(shape)}, which is no list of sizes; {FETCH_AGAIN}")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise BadInput(f"{where} has the offsets {shown(offsets)}, which are no [begin, end]; {FETCH_AGAIN}")
    begin, end = offsets
    expected = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != expected:
        raise BadInput(
            f"{where}: {shown(expected)} bytes expected for {dtype} {shown(shape)}, {end - begin} found; {FETCH_AGAIN}"
        )
    return TensorInfo(dtype, tuple(shape), begin, end)


def _whole(value: object) -> bool:
    """Whether this is a list of whole numbers that fit a 64-bit file."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_places(path: Path, tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    """The tensors must fill the file's data bytes one after the other."""
    expected = max((info.end for info in tensors.values()), default=0)
    previous, last = 0, "the header"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        where = f"{path}: tensor {shown(name)}"
        if info.begin > data_bytes and info.begin != previous:
            raise BadInput(
                f"{where} is out of range: [{info.begin}, {info.end}] of {data_bytes} bytes of data; {FETCH_AGAIN}"
            )
        if info.begin < previous:
            raise BadInput(f"{where} overlaps {last}: begins at byte {info.begin}, not {previous}; {FETCH_AGAIN}")
        if info.begin > previous:
            raise BadInput(f"{where} leaves a gap after {last}: begins at {info.begin}, not {previous}; {FETCH_AGAIN}")
        if info.end > data_bytes:
            raise BadInput(
                f"{path} is truncated in tensor {shown(name)}: "
                f"{expected} bytes of data expected, {data_bytes} found; {FETCH_AGAIN}"
            )
        previous, last = info.end, shown(name)
    if data_bytes > previous:
        raise BadInput(
            f"{path} has {data_bytes - previous} trailing bytes after {last}: "
            f"{previous} bytes of data expected, {data_bytes} found; {FETCH_AGAIN}"
        )


def _difference(name: str, found: Shape, expected: Shape) -> str:
    """A sentence on one tensor whose shape differs, in words where the sizes have a meaning."""
    if name in _FAMILIAR and len(found) == len(expected):
        for (meaning, key), has, says in zip(_FAMILIAR[name], found, expected, strict=False):
            if has != says:
                return f"{name} has {has} {meaning}, the config says {says} ({key})"
    return f"tensor {shown(name)} has the shape {shown(found)}, the config needs {shown(expected)}"


def _listing(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    first = ", ".join(shown(name) for name in names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} {kind} {'key' if len(names) == 1 else 'keys'} ({first})"


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
