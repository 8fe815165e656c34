"""What keeps a run's folder safe: one process at a time, room on the disk, and a stop that waits for its step."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from hasten.errors import BadInput
from hasten.files import lock, size, sweep, why

LOCK = ".lock"
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@contextmanager
def holding(folder: Path, out: Path | None = None) -> Iterator[None]:
    """Hold ``folder`` (made if need be) for this process alone, by ``.lock`` in it, which names PID and host; what a
    process that was killed left half written in it is removed.

    The kernel lets go of the lock of a dead process, so on one host a stale one is taken over.  Not every shared disk
    carries locks between hosts: what another host has left is refused.  On a disk without locks a process that the file
    names and that lives holds the folder.  Raises BadInput that names the holder; of ``out``, where that is what is
    asked for and ``folder`` only stands for it.
    """
    out = out or folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(f"{out} can't be written to ({why(error)}); choose another folder") from error
    with file:
        try:
            locks = lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, host = _holder(file)
            raise BadInput(
                f"{out} is in use by process {pid} on {host}; wait for it or choose another folder"
            ) from None
        pid, host = _holder(file)
        if host not in ("", socket.gethostname()):
            raise BadInput(
                f"{out} is in use by process {pid} on {host}; choose another folder, or delete {folder / LOCK} if that "
                "process is gone"
            )
        if not locks and _alive(pid):
            raise BadInput(
                f"{out} is in use by process {pid} on {host}; wait for it, choose another folder, or delete "
                f"{folder / LOCK} if that process has nothing to do with it"
            )
        if not _is_there(file, folder / LOCK):
            raise BadInput(f"{out} was in use by another process until now; try again")
        _write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        sweep(folder)
        try:
            yield
        finally:
            _write(file, "")  # not deleted: a second process may have it open already


@contextmanager
def claimed(out: Path, mark: str | None = None) -> Iterator[Path]:
    """Hold ``out``, a file or folder that is not there yet, for this process alone: by a folder beside it, which is
    yielded empty, and gone in the end.

    ``mark``: a folder ``out`` that has such a file in it may be there.  Raises BadInput as :func:`holding` does.
    """
    beside = out.with_name(f".{out.name}.making")
    if beside.is_symlink() or (beside.exists() and not (beside / LOCK).is_file() and any(beside.iterdir())):
        raise BadInput(f"{beside} is in the way of {out}, and none of hasten's; move it, or choose another folder")
    with holding(beside, out):
        try:
            if os.path.lexists(out) and not (mark and (out / mark).is_file()):
                raise BadInput(f"{out} exists; choose another folder")
            for left in beside.iterdir():  # by a process that was killed
                if left.name != LOCK:
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield beside
        finally:
            shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def making(out: Path, mark: str | None = None) -> Iterator[Path]:
    """A folder that takes the place of ``out`` when the block ends well, and goes where it does not; see
    :func:`claimed`."""
    with claimed(out, mark) as beside:
        folder = beside / "made"
        folder.mkdir()
        yield folder
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)


def is_held(folder: Path) -> bool:
    """Whether a process holds ``folder``; asks for a shared lock, and lets go of it at once."""
    if not (folder / LOCK).is_file():  # a pipe would block
        return False
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            if lock(file, fcntl.LOCK_SH | fcntl.LOCK_NB):
                return False
            pid, host = _holder(file)
            return host == socket.gethostname() and _alive(pid)
    except BlockingIOError:
        return True
    except OSError:  # another person's
        return False


def _is_there(file: IO[str], path: Path) -> bool:
    """Whether the open ``file`` is what is at ``path``, and was not removed by the process that had it before."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.lstat())
    except FileNotFoundError:
        return False


def _holder(file: IO[str]) -> tuple[int, str]:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return int(holder["pid"]), str(holder["host"])
    except (ValueError, KeyError, TypeError):
        return 0, ""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return pid > 0


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def check_ours(folder: Path, mark: str) -> None:
    """Raise BadInput for a folder that holds anything but what a run wrote, which begins with the file ``mark``."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"{folder} can't be written to ({why(error)}); choose another folder") from error
    if names and mark not in names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise BadInput(f"{folder} holds files of another kind ({', '.join(names[:3])}{more}); choose another folder")


def check_room(folder: Path, needed_bytes: int, what_for: str) -> None:
    """Raise BadInput when the disk of ``folder``, which need not be there yet, has less than ``needed_bytes`` free."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free_bytes = shutil.disk_usage(there).free
    if free_bytes < needed_bytes:
        raise BadInput(
            f"{folder}: {size(needed_bytes)} are needed for {what_for}, {size(free_bytes)} are free; make room or use "
            "another folder"
        )


def check_memory(needed_bytes: int, what_for: str) -> None:
    """Raise BadInput when this process can't have ``needed_bytes`` of memory."""
    there_bytes = free_memory_bytes()
    if there_bytes < needed_bytes:
        raise BadInput(
            f"{what_for}: {size(needed_bytes)} of memory are needed at least, {size(there_bytes)} are free; use a "
            "smaller batch or model"
        )


def free_memory_bytes() -> int:
    """What this machine has free; where that is less, what this container may have."""
    limits = [int(psutil.virtual_memory().available)]
    for path in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # no container, or "max"
            limits.append(int(Path(path).read_text(encoding="ascii")))
    return min(limits)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C and SIGTERM only make the yielded function return True; a second Ctrl-C interrupts at once.

    Python delivers signals to the main thread; in another one nothing changes.
    """
    asked = threading.Event()
    previous: dict[int, Any] = {}

    def note(number: int, _frame: FrameType | None) -> None:
        asked.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, previous[signal.SIGINT])

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
