"""The cache of samples: made once, mapped, whole or not at all, done without where it can't be."""

import errno
import fcntl
import json
import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from hasten.data import cache
from hasten.data.cache import cached

SHAPE = (2, 3)


class Maker:
    """Makes five of at most seven samples, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, add):
        self.made += 1
        for i in range(5):
            add(np.full(SHAPE, i, np.uint8))
        return {"note": "é"}

    def get(self, shape=SHAPE, dtype=np.uint8):
        samples, about = cached("kind", "name", shape, dtype, 7, self)
        assert samples[:, 0, 0].tolist() == [0, 1, 2, 3, 4]
        assert samples.shape == (5, *SHAPE)
        assert about == {"note": "é"}
        return samples


@pytest.fixture
def maker(tmp_path, monkeypatch) -> Maker:
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))
    return Maker()


@pytest.fixture
def entry(tmp_path) -> Path:
    return tmp_path / "kind" / "name"


def test_made_once_and_mapped(maker, entry) -> None:
    maker.get()
    samples = maker.get()
    assert maker.made == 1
    assert sorted(path.name for path in entry.iterdir()) == ["about.json", "samples.npy"]
    assert [path.name for path in entry.parent.iterdir()] == ["name"]
    assert isinstance(samples.base, np.memmap)
    assert not samples.flags.writeable
    assert np.load(entry / "samples.npy", allow_pickle=False).shape == (5, *SHAPE)  # a plain file for anyone


def rewritten(path: Path, content: bytes) -> None:
    path.unlink()  # whoever has mapped the old one keeps it
    path.write_bytes(content)


def pickled() -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (5, 2, 3), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\x80\x04N."


DAMAGE = {
    "truncated": lambda samples: samples[:-1],
    "longer": lambda samples: samples + b"\0",
    "empty": lambda samples: b"",
    "pickle": lambda samples: b"\x80\x04N.",
    "pickle inside": lambda samples: pickled(),
    "other shape": lambda samples: samples.replace(b"(5, 2, 3)", b"(5, 3, 2)"),
    "fewer": lambda samples: samples.replace(b"(5, 2, 3)", b"(4, 2, 3)")[:-6],
    "other type": lambda samples: samples.replace(b"|u1", b"|i1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_made_again_when_damaged(maker, entry, damage: str) -> None:
    maker.get()
    before = (entry / "samples.npy").read_bytes()
    assert DAMAGE[damage](before) != before
    rewritten(entry / "samples.npy", DAMAGE[damage](before))
    maker.get()
    maker.get()
    assert maker.made == 2


@pytest.mark.parametrize("about", ["", "[]", "{}", "1", '{"count": 6}', '{"count": "5"}'])
def test_made_again_when_what_is_said_about_it_is_damaged(maker, entry, about: str) -> None:
    maker.get()
    (entry / "about.json").write_text(about)
    maker.get()
    maker.get()
    assert maker.made == 2


def test_no_sample_at_all_is_an_entry_too(maker) -> None:
    for _ in range(2):
        assert cached("kind", "none", SHAPE, np.uint8, 7, lambda add: {"x": 1}).samples.shape == (0, *SHAPE)


def test_a_mapped_entry_outlives_its_replacement(maker, entry) -> None:
    first = maker.get()
    (entry / "about.json").unlink()
    maker.get()
    assert maker.made == 2
    assert first[:, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
def test_what_its_maker_raises_passes_and_leaves_nothing(maker, entry, error) -> None:
    def make(add):
        add(np.zeros(SHAPE, np.uint8))
        raise error

    with pytest.raises(error):
        cached("kind", "name", SHAPE, np.uint8, 7, make)
    assert list(entry.parent.iterdir()) == []


def test_what_a_killed_process_left_goes(maker, entry) -> None:
    for name in (".name.aaaaaaaa.part", ".name.bbbbbbbb.part", ".other.aaaaaaaa.part"):
        left = entry.parent / name
        left.mkdir(parents=True)
        (left / "samples.npy").touch()
    held = os.open(entry.parent / ".name.bbbbbbbb.part", os.O_RDONLY)  # by a process that lives
    fcntl.flock(held, fcntl.LOCK_EX)
    maker.get()
    os.close(held)
    assert sorted(path.name for path in entry.parent.iterdir()) == [
        ".name.bbbbbbbb.part",
        ".other.aaaaaaaa.part",
        "name",
    ]


def test_what_another_process_finished_first_is_taken(maker, entry) -> None:
    finished = []

    class Slow(Maker):
        def __call__(self, add):
            about = super().__call__(add)
            maker.get()
            finished.append((entry / "samples.npy").stat().st_ino)
            return about

    Slow().get()
    assert [(entry / "samples.npy").stat().st_ino] == finished


def test_another_process_was_quicker(maker, entry, tmp_path) -> None:
    class Slow(Maker):
        def __call__(self, add):
            about = super().__call__(add)
            maker.get()  # finishes while this one is still at it
            return about

    Slow().get()
    assert maker.made == 1
    maker.get()
    assert maker.made == 1
    assert [path.name for path in entry.parent.iterdir()] == ["name"]


class TestWithoutADisk:
    """Nothing can be kept, so it is made each time, in memory."""

    @pytest.fixture(autouse=True)
    def twice(self, maker, entry):
        yield
        maker.get()
        maker.get()
        assert maker.made >= 2
        assert not entry.exists()
        assert not entry.parent.is_dir() or list(entry.parent.iterdir()) == []

    def test_too_little_room_is_seen_before_anything_is_made(self, maker, monkeypatch) -> None:
        full = type("Usage", (), {"free": 7 * 6 - 1})
        monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: full)
        maker.get()
        assert maker.made == 1

    def test_the_disk_is_full_halfway(self, monkeypatch) -> None:
        original = Path.open

        def opened(path, mode="r", **options):
            file = original(path, mode, **options)
            if path.name != "samples.npy":
                return file

            class Full:
                def __getattr__(self, name):
                    return getattr(file, name)

                def write(self, content):
                    if file.tell() > 140:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return file.write(content)

            return Full()

        monkeypatch.setattr(Path, "open", opened)

    @pytest.mark.parametrize("call", ["fsync", "mkdtemp", "rename"])
    def test_an_error_at_any_call(self, monkeypatch, call: str) -> None:
        def fail(*_args, **_options):
            raise OSError(errno.EROFS, "Read-only file system")

        place = {"fsync": cache.os, "mkdtemp": tempfile, "rename": Path}[call]
        monkeypatch.setattr(place, call, fail)


def test_a_sample_of_another_shape_is_a_mistake(maker) -> None:
    with pytest.raises(ValueError, match="sample 0 of at most 7 has the shape"):
        cached("kind", "name", SHAPE, np.uint8, 7, lambda add: add(np.zeros((3, 2), np.uint8)))


def test_writing_and_opening_never_hold_all_samples(maker) -> None:
    sample = np.zeros((64, 1024), np.uint8)

    def make(add):
        for _ in range(1000):
            add(sample)
        return {}

    tracemalloc.start()
    samples, _ = cached("kind", "large", sample.shape, np.uint8, 1000, make)
    assert len(samples) == 1000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < samples.nbytes / 16


def test_about_is_json(maker, entry) -> None:
    maker.get()
    assert json.loads((entry / "about.json").read_text()) == {"note": "é", "count": 5}
