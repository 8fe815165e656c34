"""The files of a folder that nobody vouches for: nothing in it is run, and nothing outside it is opened.

Files are JSON and safetensors; entries or links that lead elsewhere are refused, and so is what names code.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hasten.errors import BadInput, shown
from hasten.files import why
from hasten.model.checked import FETCH_AGAIN, parse_object
from hasten.model.header import check_header

JSON_LIMIT = 1 << 20  # bytes
DEPTH_LIMIT = 16
PICKLES = (".bin", ".pt", ".ckpt", ".pth", ".pkl", ".pickle")
WEIGHTS = "diffusion_pytorch_model"
NAMES_CODE = ("auto_map", "custom_pipeline", "trust_remote_code")


def check_folder(folder: Path) -> None:
    """Raise BadInput, with what to pass, for a path that is no folder."""
    try:
        is_file, is_folder = folder.is_file(), folder.is_dir()
    except (OSError, ValueError) as error:
        raise BadInput(f"{shown(str(folder))} can't be opened ({why(error)}); check the path") from error
    if is_file and folder.suffix.lower() in PICKLES:
        raise BadInput(f"{folder} may run code; convert it to safetensors, and pass the folder that holds them")
    if is_file:
        raise BadInput(f"{folder} is a file; pass the model's folder")
    if not is_folder:
        raise BadInput(f"{folder} does not exist; pass a diffusers model folder")


def read_json(folder: Path, entry: str) -> dict[str, Any]:
    """The JSON object in the file ``entry`` of ``folder``: at most 1 MiB, 16 levels deep, and naming no code."""
    path = _inside(folder, entry)
    try:
        with path.open("rb") as file:
            text = file.read(JSON_LIMIT + 1)
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}); check the file") from error
    if len(text) > JSON_LIMIT:
        raise BadInput(f"{path} is over {JSON_LIMIT} bytes, too much for a config; check the file")
    value = parse_object(text, path)
    level: list[Any] = [value]
    for _ in range(DEPTH_LIMIT):
        for key in NAMES_CODE:
            if any(isinstance(item, dict) and item.get(key) for item in level):
                raise BadInput(f"{path}: {key!r} names code, and hasten runs none from a folder; remove it")
        level = [child for item in level for child in _children(item)]
    if level:
        raise BadInput(f"{path} is nested more than {DEPTH_LIMIT} levels deep; check the file")
    return value


def weight_files_in(folder: Path, part: str) -> tuple[Path, ...]:
    """The safetensors of a part, found as diffusers finds them: a shard index, the plain name, then a variant."""
    names = _names(folder, part)
    indexes = [n for n in names if ".safetensors.index" in n and n.endswith(".json")]
    for wanted in (f"{WEIGHTS}.safetensors.index.json", f"{WEIGHTS}.safetensors"):
        if wanted in names:
            chosen = [wanted]
            break
    else:
        shards = {name for index in indexes for name in _weight_map(folder, part, index).values()}
        chosen = [*indexes, *(n for n in names if n.endswith(".safetensors") and n not in shards)]
    if not chosen:
        refuse_pickles(folder, part)
        raise BadInput(f"{folder / part} holds no weights; expected {WEIGHTS}.safetensors")
    if len(chosen) > 1:
        several = ", ".join(shown(name) for name in chosen[:5])
        raise BadInput(f"{folder / part} holds several weights ({several}) without an index; keep one of them")
    if chosen[0] not in indexes:
        return (_inside(folder, f"{part}/{chosen[0]}"),)
    weight_map = _weight_map(folder, part, chosen[0])
    files = {name: _inside(folder, f"{part}/{name}") for name in sorted(set(weight_map.values()))}
    held = {name: check_header(file) for name, file in files.items()}
    for tensor, name in weight_map.items():
        if tensor not in held[name]:
            where = folder / part / chosen[0]
            raise BadInput(f"{where}: tensor {shown(tensor)} should be in {shown(name)} and is not; {FETCH_AGAIN}")
    return tuple(files.values())


def exists(folder: Path, entry: str) -> bool:
    """Whether ``folder`` has ``entry``, be it a link that leads nowhere."""
    path = folder / entry
    return path.is_symlink() or path.exists()


def refuse_pickles(folder: Path, part: str) -> None:
    """Raise BadInput where ``part`` of ``folder`` has a file that may run code when it is opened."""
    for name in _names(folder, part):
        if Path(name).suffix.lower() in PICKLES:
            raise BadInput(f"{folder / part / name} may run code; convert it to safetensors")


def _weight_map(folder: Path, part: str, index: str) -> dict[str, str]:
    """Tensor name to shard file, from a shard index."""
    path = folder / part / index
    weight_map = read_json(folder, f"{part}/{index}").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise BadInput(f"{path}: weight_map must name a file for each tensor; download it again")
    for name in weight_map.values():
        if _leads_out(name):
            raise BadInput(f"{path}: the entry {shown(name)} leads out of the folder; name a file beside the index")
        if not name.endswith(".safetensors"):
            raise BadInput(f"{path}: the entry {shown(name)} is no safetensors file and may run code; convert it")
    return weight_map


def _leads_out(entry: str) -> bool:
    """Whether a relative path, read as POSIX or Windows would, is absolute or climbs out."""
    posix, windows = PurePosixPath(entry), PureWindowsPath(entry)
    anchored = bool(posix.anchor or windows.anchor)
    return anchored or ".." in (*posix.parts, *windows.parts) or not entry.isprintable() or not posix.parts


def _inside(folder: Path, entry: str) -> Path:
    """A regular file of ``folder``; raises BadInput when it is missing or a link that leads out of the folder.

    In Hugging Face's cache all files of a snapshot are links to the blobs of the same repository: those are followed.
    """
    path = folder / entry
    try:
        home, file = folder.resolve(), path.resolve()
        blobs = [p.parent / "blobs" for p in home.parents if p.name == "snapshots" and p.parent.match("models--*")]
        leads_out = not any(file.is_relative_to(place) for place in (home, *blobs[:1]))
        regular = path.is_file()
    except (OSError, RuntimeError, ValueError):  # a name too long, a loop of links, a NUL
        raise BadInput(f"{folder}: {shown(entry)} can't be followed to a file; check it") from None
    if leads_out:
        raise BadInput(f"{folder}: the link {shown(entry)} leads out of the folder; copy the file in (cp -rL does so)")
    if not regular:
        raise BadInput(f"{path} is missing or no file; a diffusers model folder has it")
    return path


def _names(folder: Path, part: str) -> list[str]:
    try:
        return sorted(path.name for path in (folder / part).iterdir())
    except OSError as error:
        raise BadInput(f"{folder / part} can't be listed ({error.strerror}); check the folder") from error


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
