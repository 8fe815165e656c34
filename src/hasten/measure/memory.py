"""Peak memory of a process of its own.

A process can't measure the peak of a part of itself: the peak never falls again, and what one plan allocated is kept
for the next.  So each plan gets a child, and the system's own account of it (``ru_maxrss`` of ``wait4``) is the figure:
resident host memory, Python and libraries included.  Memory of an accelerator is not in it.

Between us and the child stands a small launcher, because on Linux ``exec`` hands the peak of the process that forked
down to the child: started from here, an empty child would show our own model as its peak.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from hasten.errors import HastenError

_LAUNCHER = """
import os, sys
silent = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[silent])
_, status, usage = os.wait4(child, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""
_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux


def peaks_at_once(programs: Sequence[Sequence[str]], timeout: float) -> list[int | HastenError]:
    """:func:`peak_bytes` of several programs that run at the same time, or why it isn't known."""

    def measure(argv: Sequence[str]) -> int | HastenError:
        try:
            return peak_bytes(argv, timeout)
        except HastenError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(measure, programs))


def peak_bytes(argv: Sequence[str], timeout: float) -> int:
    """The peak resident bytes of the program ``argv``, run to its end within ``timeout`` seconds.

    What the program prints is dropped.  Raises HastenError when it can't be started, fails (with the last line of its
    errors), is killed or takes longer; it and its children are gone then, as they are on Ctrl-C.
    """
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},  # of what the program starts too: no code from the current folder
    )
    try:
        answer, errors = launcher.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise HastenError(f"{argv[0]} did not end within {timeout:g} s; its peak memory is unknown") from error
    finally:
        if launcher.poll() is None:  # its session holds the launcher, the program and what that started
            with suppress(ProcessLookupError):
                os.killpg(launcher.pid, signal.SIGKILL)
            launcher.communicate()
    lines = errors.decode(errors="replace").strip().splitlines()
    if launcher.returncode or not answer:
        raise HastenError(f"{argv[0]} could not be started: {lines[-1] if lines else 'no reason given'}")
    code, peak = map(int, answer.split())
    if code < 0:
        raise HastenError(f"{argv[0]} was killed by {signal.Signals(-code).name}; is there enough memory?")
    if code:
        raise HastenError(f"{argv[0]} failed ({code}): {lines[-1] if lines else 'it printed nothing'}")
    return peak * _UNIT_BYTES
