"""The bundled data: counts, labels, split and pictures, rasterised once a session."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from hasten.data import array, emoji
from hasten.data.loader import by_name
from hasten.errors import BadInput


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASTEN_CACHE", cache)
        yield emoji.load(16)


def test_every_drawing_has_a_label(small) -> None:
    assert small.samples.shape == (4495, 3, 16, 16)
    assert small.samples.dtype == np.uint8
    extra = small.label_names.index(emoji.EXTRA)
    assert (small.labels != extra).sum() == 3786
    assert (small.labels == extra).sum() == 709
    assert small.label_names[:-1] == tuple(sorted(small.label_names[:-1]))
    assert set(small.labels.tolist()) == set(range(len(small.label_names)))


def test_labels_are_unicode_s(small) -> None:
    codes = [path.stem for path in sorted(emoji._folder().glob("*.svg"))]
    for code, group in [("1F600", "Smileys & Emotion"), ("1F34E", "Food & Drink"), ("2764", "Smileys & Emotion")]:
        assert small.label_names[small.labels[codes.index(code)]] == group


def test_pictures_are_drawn_on_white(small) -> None:
    corners = small.samples[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).mean() > 0.9
    assert (small.samples.reshape(4495, -1).std(axis=1) > 0).mean() > 0.999


HELD_OUT, HELD_OUT_HASH = 362, "89aadd5b63a5473e"  # results are compared across versions: never change these
BEFORE = "dd8d033b812ab9c0"  # 436 drawings, which the model of 0.1 never saw


def held_out_hash(held_out) -> str:
    codes = [path.stem for path in sorted(emoji._folder().glob("*.svg"))]
    held = [code for code, out in zip(codes, held_out, strict=True) if out]
    return hashlib.sha256("\n".join(held).encode()).hexdigest()[:16]


def test_the_split_never_changes_and_only_ever_shrank(small, monkeypatch) -> None:
    assert small.held_out.sum() == HELD_OUT
    assert held_out_hash(small.held_out) == HELD_OUT_HASH
    monkeypatch.setattr(emoji, "without_copies", lambda held_out, *_: held_out)
    before = emoji.load(16).held_out
    assert held_out_hash(before) == BEFORE
    assert before[small.held_out].all()


def test_no_held_out_picture_is_a_training_picture(small, monkeypatch) -> None:
    def shared(data) -> int:
        train = {picture.tobytes() for picture in data.samples[data.ids(False)]}
        return sum(picture.tobytes() in train for picture in data.samples[data.ids(True)])

    assert shared(small) == 0
    monkeypatch.setattr(emoji, "without_copies", lambda held_out, *_: held_out)
    assert shared(emoji.load(16)) > 50


def test_a_group_follows_its_copies_until_none_is_left() -> None:
    """a is trained on; b copies a and goes there; so does c, which copies another of b; d is alone."""
    groups = ["a", "b", "b", "c", "c", "d"]
    first = [0, 0, 2, 2, 4, 5]
    held_out = np.array([False, True, True, True, True, True])
    assert emoji.without_copies(held_out, groups, first).tolist() == [False] * 5 + [True]
    assert emoji.without_copies(held_out, groups, [0, 1, 2, 2, 4, 5]).tolist() == held_out.tolist()


def test_skin_tones_stay_on_one_side(small) -> None:
    codes = [path.stem for path in sorted(emoji._folder().glob("*.svg"))]
    hands = [i for i, code in enumerate(codes) if code.startswith("1F44B")]
    assert len(hands) == 6
    assert len(set(small.held_out[hands].tolist())) == 1


def test_the_cache_is_read_and_made_again_when_damaged(tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path))
    told = []
    monkeypatch.setattr(emoji, "_draw", lambda path, shape: drawn.append(path) or np.full(shape, 7, np.uint8))
    first = emoji.load(17, lambda *done: told.append(done))
    assert told == [(n, 4495) for n in range(100, 4495, 100)]
    assert len(drawn) == 4495
    assert (emoji.load(17).samples == first.samples).all()
    assert len(drawn) == 4495
    [entry] = (tmp_path / "emoji").iterdir()
    file = entry / "samples.npy"
    shorter = file.read_bytes()[:-1000]
    file.unlink()  # first is mapped from it
    file.write_bytes(shorter)
    assert (emoji.load(17).samples == first.samples).all()
    assert len(drawn) == 2 * 4495


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 8, 16), (1, 16, 12)])
def test_in_the_models_own_shape(small, monkeypatch, shape: tuple[int, int, int]) -> None:
    """By one drawing: cut to its middle and made grey as Pillow does."""
    paths = sorted(emoji._folder().glob("*.svg"))
    of = [path.stem for path in paths].index("1F600")
    monkeypatch.setattr(emoji, "_folder", lambda: type("Folder", (), {"glob": lambda *_: paths[of : of + 2]}))
    monkeypatch.setattr(emoji, "split", lambda _: np.zeros(2, np.bool_))
    made = by_name("emoji", shape[1:], channels=shape[0])
    assert made.samples.shape == (2, *shape)
    top, left = (16 - shape[1]) // 2, (16 - shape[2]) // 2
    wanted = small.samples[of, :, top : top + shape[1], left : left + shape[2]].transpose(1, 2, 0)
    if shape[0] == 1:
        wanted = np.asarray(Image.fromarray(np.ascontiguousarray(wanted)).convert("L"))[..., None]
    assert np.array_equal(made.samples[0].transpose(1, 2, 0), wanted)


def test_channels_that_no_picture_has() -> None:
    with pytest.raises(BadInput, match="channels = 4 is not possible"):
        emoji.load(16, channels=4)


@pytest.mark.parametrize("size", [15, 257, 0])
def test_sizes_out_of_range(size: int) -> None:
    with pytest.raises(BadInput, match="16 to 256"):
        emoji.load(size)


def test_one_drawing_is_what_resvg_makes_of_it(small) -> None:
    """The first face is a yellow disc: its centre is OpenMoji's yellow at any size."""
    codes = [path.stem for path in sorted(emoji._folder().glob("*.svg"))]
    red, green, blue = small.samples[codes.index("1F600"), :, 5, 8]
    assert red > 200
    assert green > 150
    assert blue < 120
    assert array.as_float(small.samples[:1]).max() <= 1.0
