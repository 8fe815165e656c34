"""Data in memory: range, split and the cache on disk."""

import zlib

import numpy as np
import pytest

from hasten.data.array import Data, as_float, cached, split
from hasten.errors import BadInput


def data(count: int = 20) -> Data:
    samples = np.arange(count * 4, dtype=np.uint8).reshape(count, 1, 2, 2)
    return Data("d", samples, np.arange(count), ("a",), split([str(i) for i in range(count)]))


def test_pictures_become_minus_one_to_one() -> None:
    assert as_float(np.array([0, 255], dtype=np.uint8)).tolist() == [-1.0, 1.0]
    assert as_float(np.array([0.25, 7.0], dtype=np.float32)).tolist() == [0.25, 7.0]
    assert as_float(np.array([3], dtype=np.uint8)).dtype == np.float32


def test_the_parts_are_disjoint_and_whole() -> None:
    d = data()
    train, held = d.part(False)[1], d.part(True)[1]
    assert sorted([*train, *held]) == list(range(20))
    assert len(held) == d.held_out.sum() > 0
    assert d.shape == (1, 2, 2)


def test_lengths_must_agree() -> None:
    with pytest.raises(BadInput, match="3 samples, 2 labels, 3 split marks"):
        Data("d", np.zeros((3, 1), np.uint8), np.zeros(2, np.int64), ("a",), np.zeros(3, bool))


def test_a_key_s_side_depends_on_nothing_but_the_key() -> None:
    keys = [f"k{i}" for i in range(5000)]
    whole = split(keys)
    assert (split(keys[::-1])[::-1] == whole).all()
    assert whole.mean() == pytest.approx(0.1, abs=0.02)
    assert whole[:50].tolist() == [zlib.crc32(key.encode()) % 10_000 < 1000 for key in keys[:50]]


def test_two_keys_are_enough_for_both_sides() -> None:
    keys = next([f"a{i}", f"b{i}"] for i in range(100) if not split([f"a{i}", f"b{i}", *"xyz"])[:2].any())
    assert sorted(split(keys).tolist()) == [False, True]


class TestCached:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))
        self.made = 0
        self.file = tmp_path / "kind" / "name.npz"

    def make(self):
        self.made += 1
        return {"x": np.arange(1000), "notes": np.asarray(["é"])}

    def get(self):
        arrays = cached("kind", "name", self.make)
        assert arrays["x"].tolist() == list(range(1000))
        assert arrays["notes"].tolist() == ["é"]

    def test_made_once(self) -> None:
        self.get()
        self.get()
        assert self.made == 1
        assert [p.name for p in self.file.parent.iterdir()] == ["name.npz"]

    @pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "pickle"])
    def test_made_again_when_damaged(self, damage: str) -> None:
        self.get()
        content = bytearray(self.file.read_bytes())
        if damage == "flipped":
            content[content.index(b"\x2a\x00\x00\x00\x00\x00\x00\x00")] ^= 1
        shorter = {"truncated": content[:-100], "flipped": content, "empty": b"", "pickle": b"\x80\x04N."}[damage]
        self.file.write_bytes(shorter)
        self.get()
        assert self.made == 2
        self.get()
        assert self.made == 2

    def test_a_cache_that_can_t_be_written_is_done_without(self, tmp_path, monkeypatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "file"))
        self.get()
        self.get()
        assert self.made == 2
