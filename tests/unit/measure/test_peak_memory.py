from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from hasten.errors import HastenError
from hasten.measure.memory import peak_bytes

MB = 10**6


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_child_that_holds_200_mb_peaks_200_mb_higher():
    empty = peak_bytes(python("pass"), 30)
    full = peak_bytes(python("b = bytearray(200_000_000)\nb[::4096] = b'x' * len(b[::4096])"), 30)
    assert full - empty == pytest.approx(200 * MB, rel=0.1)


def test_it_is_the_peak_and_not_the_end():
    freed = peak_bytes(python("b = b'x' * 200_000_000; del b"), 30)
    assert freed > 200 * MB


def test_what_this_process_holds_is_not_in_it():
    """On Linux a forked child starts with its parent's peak, which exec keeps: that is why there is a launcher."""
    held = b"x" * (300 * MB)
    assert peak_bytes(python("pass"), 30) < 100 * MB
    assert len(held) == 300 * MB


def test_a_failing_child_is_named_by_its_last_line():
    with pytest.raises(HastenError, match=r"failed \(1\): ValueError: no such plan$"):
        peak_bytes(python("print('much'); raise ValueError('no such plan')"), 30)
    with pytest.raises(HastenError, match=r"failed \(3\): it printed nothing$"):
        peak_bytes(python("import sys; print('out'); sys.exit(3)"), 30)


def test_a_killed_child_is_named_by_its_signal():
    with pytest.raises(HastenError, match="killed by SIGKILL"):
        peak_bytes(python("import os; os.kill(os.getpid(), 9)"), 30)


def test_a_program_that_is_not_there():
    with pytest.raises(HastenError, match=r"no-such-program could not be started: FileNotFoundError"):
        peak_bytes(["no-such-program"], 30)


def test_a_child_that_takes_too_long_is_gone_afterwards(tmp_path):
    wrote = tmp_path / "pid"
    code = f"import os, time; open({str(wrote)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    for seconds in (1, 5, 20):  # on a busy machine a child may take long to start
        begun = time.perf_counter()
        with pytest.raises(HastenError, match=rf"did not end within {seconds} s"):
            peak_bytes(python(code), seconds)
        assert time.perf_counter() - begun < seconds + 20
        if wrote.exists() and wrote.read_text():
            break
    pid = int(wrote.read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if _is_zombie(pid):
            return
        time.sleep(0.05)
    pytest.fail(f"the child {pid} still runs")


def _is_zombie(pid: int) -> bool:
    """Killed, and only not yet fetched by whoever adopts orphans here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return False


def test_what_a_program_starts_runs_no_code_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import json'], check=True)"
    peak_bytes([sys.executable, "-c", code], timeout=60)
    assert not (tmp_path / "mark").exists()
