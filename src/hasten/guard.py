"""What keeps a run's folder safe: one process at a time, room on the disk, and a stop that waits for its step."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from hasten.errors import BadInput
from hasten.files import why

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # what a disk says that has no locks


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
def holding(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if need be) for this process alone, by ``.lock`` in it, which names PID and host.

    The kernel lets go of the lock of a dead process, so on one host a stale one is taken over.  Not every shared disk
    carries locks between hosts: what another host has left is refused.  On a disk without locks a process that the file
    names and that lives holds the folder.  Raises BadInput that names the holder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} can't be written to ({why(error)}); choose another folder") from error
    with file:
        try:
            locks = lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, host = _holder(file)
            raise BadInput(f"{folder} is in use by process {pid} on {host}; wait for it or use another --out") from None
        pid, host = _holder(file)
        if host not in ("", socket.gethostname()):
            raise BadInput(
                f"{folder} is in use by process {pid} on {host}; use another --out, or delete {folder / LOCK} if that "
                "process is gone"
            )
        if not locks and _alive(pid):
            raise BadInput(
                f"{folder} is in use by process {pid} on {host}; wait for it, use another --out, or delete "
                f"{folder / LOCK} if that process has nothing to do with it"
            )
        _write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            _write(file, "")  # not deleted: a second process may have it open already


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
        raise BadInput(f"{folder} can't be written to ({why(error)}); choose another --out") from error
    if names and mark not in names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise BadInput(f"{folder} holds files of another kind ({', '.join(names[:3])}{more}); choose another --out")


def check_room(folder: Path, needed_bytes: int, what_for: str) -> None:
    """Raise BadInput when the disk of ``folder`` has less than ``needed_bytes`` free."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise BadInput(
            f"{folder}: {needed_bytes / 1e6:.1f} MB are needed for {what_for}, {free_bytes / 1e6:.1f} MB are free; "
            "make room or use another --out"
        )


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
