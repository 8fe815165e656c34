"""Files written whole or not at all, and where hasten keeps what it can make again."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hasten.errors import BadInput

UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def num_bytes(text: str) -> int | None:
    """``1.5 GiB``, ``500MB`` or ``800B`` in bytes; None for what is no size."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([kKMG]?i?B)", text)
    return int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else None


def why(error: Exception) -> str:
    """The system's reason alone, without number and path: "Permission denied", "embedded null byte"."""
    return getattr(error, "strerror", None) or str(error)


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed when not.

    The old file stays intact until then.  Raises BadInput when the folder can't be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path.parent} can't be written to ({why(error)}); choose another folder") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: Path) -> None:
    """Bring a rename in ``folder`` to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path | str, content: str) -> None:
    """Write ``content`` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode("utf-8"))


def sha256(path: Path | str) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder(*parts: str) -> Path:
    """A folder for what can be made again: under HASTEN_CACHE, else XDG_CACHE_HOME, else ~/.cache/hasten.

    Where that can't be written to, or there is no home folder, a temporary one that goes with this process.
    """
    root = os.environ.get("HASTEN_CACHE")
    try:
        if root is None:
            root = str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hasten")
        folder = Path(root, *parts)
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"{folder}: no permission to write"
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder is known
        reason = f"{root}: {why(error)}" if root else str(error)
    folder = Path(_spare_cache(reason), *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_spare: list[str] = []


def _spare_cache(reason: str) -> str:
    """The temporary folder in the cache's place; said once."""
    if not _spare:
        try:
            _spare.append(tempfile.mkdtemp(prefix="hasten-cache-"))
        except OSError as error:
            raise BadInput(f"no cache ({reason}) and no temporary folder ({why(error)}); set HASTEN_CACHE") from error
        atexit.register(shutil.rmtree, _spare[0], ignore_errors=True)
        logging.getLogger(__name__).warning(
            "warning: no cache (%s); a temporary one is used, set HASTEN_CACHE to a folder to keep it", reason
        )
    return _spare[0]
