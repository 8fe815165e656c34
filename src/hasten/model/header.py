"""What safetensors files hold, from their headers alone: whatever is wrong is said before anything large is allocated.

A safetensors file is eight bytes (the header's length, little-endian), a JSON header that gives each tensor's dtype,
shape and place, and the tensors' bytes without a gap; https://huggingface.co/docs/safetensors (format).  The header
is read here in plain Python.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hasten.errors import BadInput, shown
from hasten.model.checked import FETCH_AGAIN, parse_object

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
