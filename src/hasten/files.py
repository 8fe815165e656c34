"""Files written whole or not at all, and where hasten keeps what it can make again."""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hasten.errors import BadInput

UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
LONGEST_LINE = 1 << 20  # bytes, of JSON
SCALES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)  # of a disk that has none
TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.part")
LEFT_SECONDS = 24 * 3600  # on a disk without locks, what is this old belongs to a process that was killed


def num_bytes(text: str) -> int | None:
    """``1.5 GiB``, ``500MB`` or ``800B`` in bytes; None for what is no size."""
    found = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?) ?([kKMG]?i?B)", text)
    return int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else None


def size(value: float) -> str:
    """Bytes for people, in memory as on disk, in powers of ten as budgets are given: ``"812 MB"``, ``"6.45 GB"``."""
    scale, unit = next((u for u in SCALES if abs(value) >= u[0] * 0.9995), SCALES[-1])
    whole = scale == 1.0 or abs(value) >= 999.5 * scale
    return f"{value / scale:,.0f} {unit}" if whole else f"{value / scale:#.3g}".rstrip(".") + f" {unit}"


def why(error: Exception) -> str:
    """The system's reason alone, without number and path: "Permission denied", "embedded null byte"."""
    return getattr(error, "strerror", None) or str(error)


def lock(file: IO[Any] | int, how: int) -> bool:
    """``fcntl.flock``; False where the disk has no locks, as some shared ones."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def temporary(path: Path, folder: bool = False) -> Iterator[Path]:
    """An empty file, or folder, beside ``path`` for this process alone, removed in the end; what processes that were
    killed left there in its name is removed first.

    Raises OSError or ValueError where nothing can be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    handle, made = _make(path, folder)
    try:
        yield made
    finally:
        if folder:
            shutil.rmtree(made, ignore_errors=True)
        else:
            made.unlink(missing_ok=True)
        os.close(handle)


def _make(path: Path, folder: bool) -> tuple[int, Path]:
    """A new file or folder, locked as long as the handle is open, so that no :func:`sweep` takes it away."""
    prefix, suffix = f".{path.name}.", ".part"
    while True:
        if folder:
            name = tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=path.parent)
            try:
                handle = os.open(name, os.O_RDONLY)
            except FileNotFoundError:  # a sweep was quicker than the lock
                continue
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        lock(handle, fcntl.LOCK_EX)
        if os.path.lexists(name):
            return handle, Path(name)
        os.close(handle)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files and folders of ``name``, or all, in ``folder`` that no living process holds."""
    for path in folder.iterdir():
        found = TEMPORARY.fullmatch(path.name)
        if found and name in (None, found[1]) and not path.is_symlink():
            with suppress(OSError):  # another user's, or gone already
                _remove_left(path)


def _remove_left(path: Path) -> None:
    is_folder = path.is_dir()
    handle = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        held = not lock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB) and time.time() - path.stat().st_mtime < LEFT_SECONDS
        if is_folder and not held:
            shutil.rmtree(path)
        elif not held:
            path.unlink()
    finally:
        os.close(handle)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder among the system's temporary files.  Raises BadInput where there is none."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary(Path(tempfile.gettempdir(), "hasten"), folder=True))
        except OSError as error:
            raise BadInput(f"no temporary folder ({why(error)}); set TMPDIR to a writable folder") from error
        yield folder


def small_text(path: Path, most: int, what: str) -> str:
    """The text of a ``what``, a file of at most ``most`` bytes.

    Raises BadInput for what is no such file, without waiting for a pipe that nobody writes to or reading without end.
    """
    try:
        odd = path.exists() and not path.is_file()
        content = b""
        if not odd:
            with path.open("rb") as file:
                content = file.read(most + 1)
        text = content[:most].decode("utf-8", "strict" if len(content) <= most else "ignore")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, a NUL in the name
        raise BadInput(f"{what} {path}: {why(error)}; pass a {what}.toml") from error
    if odd:
        raise BadInput(f"{what} {path} is {'a folder' if path.is_dir() else 'no file'}; pass a {what}.toml")
    if len(content) > most:
        raise BadInput(f"{what} {path} is over {most} bytes, too much for a {what}; pass a {what}.toml")
    return text


def text_lines(path: Path, errors: str = "strict") -> Iterator[str]:
    """The lines of a file with their ends, none where there is no file; ``errors``: of what is not UTF-8.

    Raises BadInput for what is no file or can't be read, and for a line that is longer than any of ours.
    """
    if not path.exists():
        return
    if not path.is_file():
        raise BadInput(f"{path} is {'a folder' if path.is_dir() else 'no file'}; restore the file")
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    raise BadInput(f"{path}: a line is over {LONGEST_LINE} bytes; restore the file")
                yield line.decode("utf-8", errors)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read ({why(error)}); restore the file") from error


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and is removed when not.

    The old file stays intact until then.  Raises BadInput when the folder can't be written to.
    """
    path = Path(path)
    with ExitStack() as stack:
        try:
            made = stack.enter_context(temporary(path))
        except (OSError, ValueError) as error:
            raise BadInput(f"{path.parent} can't be written to ({why(error)}); choose another folder") from error
        yield made
        with made.open("rb") as written:
            os.fsync(written.fileno())
        made.chmod(0o666 & ~umask())
        made.replace(path)
        _sync(path.parent)


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


def toml(values: Mapping[str, Any], table: str = "") -> str:
    """``values`` as TOML 1.0: scalars and lists of them, tables, and lists of tables; what is None is left out.

    JSON's strings, numbers and lists are TOML's too, but for DEL and numbers that are not finite.
    """
    tables, lines = [], list[str]()
    for key, value in values.items():
        name = key if re.fullmatch(r"[\w-]+", key, re.ASCII) else _toml_value(key)
        if isinstance(value, Mapping):
            tables.append(f"\n[{table}{name}]\n{toml(value, f'{table}{name}.')}")
        elif isinstance(value, list | tuple) and value and all(isinstance(each, Mapping) for each in value):
            tables += [f"\n[[{table}{name}]]\n{toml(each, f'{table}{name}.')}" for each in value]
        elif value is not None:
            lines.append(f"{name} = {_toml_value(value)}\n")
    return "".join(lines + tables)


def _toml_value(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # nan, inf and -inf are TOML's words
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


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
            kept = ExitStack()
            made = kept.enter_context(temporary(Path(tempfile.gettempdir(), "hasten-cache"), folder=True))
        except OSError as error:
            raise BadInput(f"no cache ({reason}) and no temporary folder ({why(error)}); set HASTEN_CACHE") from error
        _spare.append(str(made))
        atexit.register(kept.close)
        logging.getLogger(__name__).warning(
            "warning: no cache (%s); a temporary one is used, set HASTEN_CACHE to a folder to keep it", reason
        )
    return _spare[0]
