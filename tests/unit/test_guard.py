"""One process at a time, room on the disk, and a stop that waits."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from hasten import guard
from hasten.errors import BadInput

HOLD = "import sys, pathlib\nfrom hasten.guard import holding\nwith holding(pathlib.Path(sys.argv[1])):\n"


def at_it(code, folder):
    """A process that runs ``code`` and then waits within its last block, and the folder."""
    waits = "    print('at it', flush=True)\n    sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code + waits, folder], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at it\n"
    yield process, folder
    process.kill()
    process.communicate()


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder, and the folder."""
    folder = tmp_path / "run"
    yield from at_it(HOLD, folder)


def test_a_held_folder_is_refused_with_its_holder(other) -> None:
    process, folder = other
    with (
        pytest.raises(BadInput, match=rf"run is in use by process {process.pid} on .+; wait for it or choose another"),
        guard.holding(folder),
    ):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(other) -> None:
    process, folder = other
    process.kill()
    process.wait()
    assert json.loads((folder / guard.LOCK).read_text())["pid"] == process.pid
    with guard.holding(folder):
        assert json.loads((folder / guard.LOCK).read_text())["pid"] == os.getpid()


def test_let_go_at_the_end_and_after_an_error(tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), guard.holding(tmp_path):
            raise KeyError
        assert (tmp_path / guard.LOCK).read_text() == ""


def test_held_twice_by_one_process(tmp_path) -> None:
    with guard.holding(tmp_path), pytest.raises(BadInput, match=f"process {os.getpid()}"), guard.holding(tmp_path):
        pass


def test_what_another_host_left_is_refused(tmp_path) -> None:
    (tmp_path / guard.LOCK).write_text('{"pid": 7, "host": "elsewhere.example"}')
    with pytest.raises(BadInput, match=r"process 7 on elsewhere\.example; .*delete .*\.lock"), guard.holding(tmp_path):
        pass
    assert "elsewhere" in (tmp_path / guard.LOCK).read_text()


@pytest.fixture
def no_locks(monkeypatch):
    """A disk without locks, as some shared ones."""

    def fail(*_arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(guard.fcntl, "flock", fail)


def test_without_locks_a_living_holder_is_refused(no_locks, other) -> None:
    process, folder = other
    with pytest.raises(BadInput, match=rf"in use by process {process.pid} on .*delete .*\.lock"), guard.holding(folder):
        pass
    process.kill()
    process.wait()
    with guard.holding(folder):
        assert json.loads((folder / guard.LOCK).read_text())["pid"] == os.getpid()
    assert (folder / guard.LOCK).read_text() == ""


def test_a_lock_that_fails_otherwise_is_told(tmp_path, monkeypatch) -> None:
    def fail(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(guard.fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"), guard.holding(tmp_path):
        pass


def test_a_folder_that_no_disk_can_have(tmp_path) -> None:
    for name in ("a\0b", "a" * 300):
        with pytest.raises(BadInput, match="can't be written to"), guard.holding(tmp_path / name):
            pass


def test_a_damaged_lock_file_holds_nobody_back(tmp_path) -> None:
    (tmp_path / guard.LOCK).write_text("?")
    with guard.holding(tmp_path):
        pass


def test_a_folder_that_can_t_be_made(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="can't be written to"), guard.holding(tmp_path / "file" / "run"):
        pass


def test_room(tmp_path, monkeypatch) -> None:
    guard.check_room(tmp_path, 1, "a checkpoint")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 2_000_000))
    guard.check_room(tmp_path, 2_000_000, "a checkpoint")
    with pytest.raises(BadInput, match=r"2\.10 MB are needed for a checkpoint, 2\.00 MB are free"):
        guard.check_room(tmp_path, 2_100_000, "a checkpoint")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_only_noted_and_then_all_is_as_before(number) -> None:
    before = signal.getsignal(number)
    with guard.stopping() as asked:
        assert not asked()
        signal.raise_signal(number)
        assert asked()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts() -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)  # to this thread: one that another takes arrives some time
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt), guard.stopping():
            twice()
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_nothing_is_touched() -> None:
    seen = []

    def work() -> None:
        with guard.stopping() as asked:
            seen.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_folder_with_anything_of_a_persons_own_is_refused(tmp_path) -> None:
    guard.check_ours(tmp_path / "absent", "run.json")
    guard.check_ours(tmp_path, "run.json")
    (tmp_path / "plan.toml").write_text("mine")
    with pytest.raises(BadInput, match=r"holds files of another kind .plan.toml.; choose another folder"):
        guard.check_ours(tmp_path, "run.json")
    (tmp_path / "run.json").write_text("{}")
    guard.check_ours(tmp_path, "run.json")


MAKE = "import sys, pathlib\nfrom hasten.guard import making\nwith making(pathlib.Path(sys.argv[1])) as folder:\n"


@pytest.fixture
def maker(tmp_path):
    """Another process that is making a folder, and the folder."""
    out = tmp_path / "out"
    yield from at_it(MAKE + "    (folder / 'half').touch()\n", out)


def make(out, content="mine", mark=None) -> None:
    with guard.making(out, mark) as folder:
        (folder / "content").write_text(content)


def test_two_can_t_make_one_folder(maker) -> None:
    process, out = maker
    with pytest.raises(BadInput, match=rf"out is in use by process {process.pid} on .+; wait for it or choose another"):
        make(out)
    assert not out.exists()
    process.communicate("")  # it ends
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    with pytest.raises(BadInput, match="out exists; choose another folder"):
        make(out)
    assert [path.name for path in out.iterdir()] == ["half"]


def test_what_a_killed_maker_left_is_in_nobodys_way(maker) -> None:
    process, out = maker
    process.kill()
    process.wait()
    make(out)
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["content"]


def test_what_fails_leaves_nothing(tmp_path) -> None:
    with pytest.raises(TypeError):
        make(tmp_path / "out", None)
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "out")


def test_only_a_folder_with_the_mark_is_replaced(tmp_path) -> None:
    make(tmp_path / "out", "old")
    with pytest.raises(BadInput, match="out exists"):
        make(tmp_path / "out", mark="artifact.json")
    make(tmp_path / "out", "new", mark="content")
    assert (tmp_path / "out" / "content").read_text() == "new"


def test_a_persons_own_folder_of_that_name_stays(tmp_path) -> None:
    own = tmp_path / ".out.making"
    own.mkdir()
    (own / "mine").touch()
    with pytest.raises(BadInput, match=r"\.out\.making is in the way"):
        make(tmp_path / "out")
    assert (own / "mine").exists()


def test_what_is_half_written_goes_when_its_folder_is_held_next(tmp_path) -> None:
    (tmp_path / ".checkpoint-0000012.safetensors.aaaaaaaa.part").touch()
    (tmp_path / ".mine.part").touch()
    with guard.holding(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".mine.part"]


def test_whether_a_folder_is_held(other, tmp_path) -> None:
    process, folder = other
    assert guard.is_held(folder)
    process.kill()
    process.wait()
    assert not guard.is_held(folder)
    assert not guard.is_held(tmp_path)
    (tmp_path / guard.LOCK).mkdir()
    assert not guard.is_held(tmp_path)


def test_whether_a_folder_is_held_on_a_disk_without_locks(no_locks, other) -> None:
    process, folder = other
    assert guard.is_held(folder)
    process.kill()
    process.wait()
    assert not guard.is_held(folder)


def test_room_for_a_folder_that_is_not_there_yet(tmp_path) -> None:
    guard.check_room(tmp_path / "a" / "b", 1, "a model")
    with pytest.raises(BadInput, match=r"b: 1,000,000 TB are needed for a model, .* are free; make room"):
        guard.check_room(tmp_path / "a" / "b", 10**18, "a model")


def test_memory(tmp_path, monkeypatch) -> None:
    guard.check_memory(1000, "a sample")
    with pytest.raises(BadInput, match=r"a sample: 1,000,000 TB of memory are needed at least, .* are free; use a sm"):
        guard.check_memory(10**18, "a sample")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(guard, "CONTAINER_LIMITS", (str(limit), str(tmp_path / "absent")))
    limit.write_text("max\n")
    assert guard.free_memory_bytes() > 2e6
    limit.write_text("2000000\n")
    assert guard.free_memory_bytes() == 2_000_000
