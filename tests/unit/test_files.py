"""Files written whole or not at all."""

import errno
import hashlib
import math
import os
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from hasten import files
from hasten.errors import BadInput


class Interrupted(Exception):
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path) -> None:
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"half")
        raise Interrupted


def test_whole_at_the_end(tmp_path) -> None:
    path = tmp_path / "new" / "folder" / "x"
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"content")
        assert not path.exists()
        assert temporary.parent == path.parent  # so that the last step is a rename
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["x"]


def test_not_at_all_when_the_block_fails(tmp_path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(Interrupted):
        write_half(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x"]


def test_a_writer_that_replaces_the_temporary_file(tmp_path) -> None:
    with files.replacing(tmp_path / "x") as temporary:
        temporary.unlink()
        temporary.write_bytes(b"made anew")
    assert (tmp_path / "x").read_bytes() == b"made anew"


def test_modes_are_those_of_plain_files(tmp_path) -> None:
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "x", "")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_text_is_utf_8(tmp_path) -> None:
    files.write_text(tmp_path / "x", "é\n")
    assert (tmp_path / "x").read_bytes() == "é\n".encode()


def test_a_folder_that_can_t_be_written_to(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match=r"can't be written to .*choose another folder"):
        files.write_text(tmp_path / "file" / "x", "")


def test_sha256(tmp_path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_where_the_cache_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "own"))
    assert files.cache_folder("a", "b") == tmp_path / "own" / "a" / "b"
    assert (tmp_path / "own" / "a" / "b").is_dir()
    monkeypatch.delenv("HASTEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder("a") == tmp_path / "xdg" / "hasten" / "a"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert files.cache_folder() == tmp_path / ".cache" / "hasten"


def unknown() -> Path:
    raise RuntimeError("Could not determine home directory.")


def a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "file"))


def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HASTEN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)


def no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "read-only"))
    monkeypatch.setattr(files.os, "access", lambda *_: False)


@pytest.mark.parametrize("why", [a_file, no_home, no_permission])
def test_without_a_cache_there_is_a_temporary_one_and_a_word_on_it(why, tmp_path, monkeypatch, caplog) -> None:
    why(tmp_path, monkeypatch)
    monkeypatch.setattr(files, "_spare", [])
    monkeypatch.setattr(files.logging.getLogger(files.__name__), "disabled", False)  # a library may
    caplog.set_level("WARNING", logger=files.__name__)
    first, second = files.cache_folder("a"), files.cache_folder("a", "b")
    assert second == first / "b"
    assert second.is_dir()
    assert not first.is_relative_to(tmp_path)
    assert [record.message.count("set HASTEN_CACHE") for record in caplog.records] == [1]


def test_without_a_cache_and_a_temporary_folder(tmp_path, monkeypatch) -> None:
    def none(**_options: str) -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    a_file(tmp_path, monkeypatch)
    monkeypatch.setattr(files, "_spare", [])
    monkeypatch.setattr(files.tempfile, "mkdtemp", none)
    with pytest.raises(BadInput, match=r"no cache .* and no temporary folder .No usable.*; set HASTEN_CACHE"):
        files.cache_folder("a")


def test_a_name_that_no_file_can_have(tmp_path) -> None:
    for name in ("a\0b", "a" * 300):
        with pytest.raises(BadInput, match="can't be written to"):
            files.write_text(tmp_path / name / "x", "")


def test_sizes_have_a_limit() -> None:
    assert files.num_bytes("1.5GiB") == 3 * 2**29
    assert files.num_bytes("9" * 400 + "GB") is None


WRITE = """
import sys, pathlib
from hasten import files
path = pathlib.Path(sys.argv[1])
with files.replacing(path) as half, files.temporary(path, folder=True) as made:
    half.write_bytes(b"half")
    (made / "x").write_bytes(b"half")
    print("at it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def writer(tmp_path):
    """Another process that is writing ``x``, a file and a folder."""
    process = subprocess.Popen([sys.executable, "-c", WRITE, tmp_path / "x"], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "at it\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_half_written_goes_when_it_is_written_next(writer, tmp_path) -> None:
    kept = [".x.notes.part", ".x.12345678.parts", ".y.12345678.part"]
    for name in kept:
        (tmp_path / name).write_text("a person's own, or of another name")
    files.write_text(tmp_path / "x", "mine")
    assert len(names(tmp_path)) == len(kept) + 3  # the other process lives: what is its own stays
    writer.kill()
    writer.wait()
    files.write_text(tmp_path / "x", "mine")
    assert names(tmp_path) == sorted([*kept, "x"])


def test_without_locks_it_goes_after_a_day(tmp_path, monkeypatch) -> None:
    def fail(*_arguments):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", fail)
    for name, age in ((".x.aaaaaaaa.part", 2 * files.LEFT_SECONDS), (".x.bbbbbbbb.part", 60)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    files.write_text(tmp_path / "x", "mine")
    assert names(tmp_path) == [".x.bbbbbbbb.part", "x"]


def test_a_scratch_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    with files.scratch() as folder:
        assert folder.parent == tmp_path
        assert folder.is_dir()
    assert names(tmp_path) == []
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "file" / "x"))
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"no temporary folder .*; set TMPDIR"), files.scratch():
        pass


def test_toml_is_read_as_it_was_written() -> None:
    values = {
        "version": 1,
        "text": 'say "no"\n\x7f\\ \u0001 naïve 🙂',
        "odd key": 1e-05,
        "flags": [True, False],
        "table": {"a": -0.0, "inner": {"b": [1.5, 2.0], "empty": []}},
        "rows": [{"name": "x", "n": 1}, {"name": "y", "inner": {"z": 3}}],
        "infinite": math.inf,
    }
    assert tomllib.loads(files.toml({**values, "left": None})) == values
