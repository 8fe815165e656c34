"""A folder of pictures: what is taken, how it is converted, and what is refused."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from hasten.data import folder, picture
from hasten.errors import BadInput

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path) -> Path:
    """Two labels of six plain pictures each."""
    root = tmp_path / "pictures"
    for label, colour in {"cat": RED, "dog": BLUE}.items():
        (root / label).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (8, 8), colour).save(root / label / f"{i}.png")
    return root


def only(root: Path, name: str, **options):
    """The sample of ``name``, beside the plain ones, and the notes."""
    data = folder.load(root, 8, **options)
    names = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix in folder.SUFFIXES)
    return data.samples[names.index(name)], data.notes


def test_labels_are_sub_folders_and_the_order_is_that_of_paths(root) -> None:
    data = folder.load(root, 4)
    assert data.samples.shape == (12, 3, 4, 4)
    assert data.label_names == ("cat", "dog")
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.samples[0, :, 0, 0].tolist() == list(RED)
    assert data.samples[-1, :, 0, 0].tolist() == list(BLUE)
    assert data.notes == ()
    assert 0 < data.held_out.sum() < 12


def test_without_sub_folders_there_is_one_label(root) -> None:
    data = folder.load(root / "cat", 4)
    assert data.label_names == ("cat",)
    assert data.labels.tolist() == [0] * 6


def test_the_split_goes_by_name_alone(root) -> None:
    before = folder.load(root, 4)
    moved = root.rename(root.parent / "elsewhere")
    assert (folder.load(moved, 8).held_out == before.held_out).all()


def test_grey(root) -> None:
    data = folder.load(root, 4, channels=1)
    assert data.shape == (1, 4, 4)
    assert set(data.samples[0].ravel().tolist()) == {76}  # ITU-R 601: 0.299 * 255
    with pytest.raises(BadInput, match="use 3"):
        folder.load(root, 4, channels=2)


def test_the_middle_is_cut_out_before_resizing(root) -> None:
    wide = Image.new("RGB", (40, 10), RED)
    wide.paste(GREEN, (15, 0, 25, 10))
    wide.save(root / "cat" / "wide.png")
    sample, _ = only(root, "cat/wide.png")
    assert (sample[1] == 255).all()
    assert (sample[0] == 0).all()


def test_every_extension_is_read(root) -> None:
    for suffix in folder.SUFFIXES:
        Image.new("RGB", (8, 8), GREEN).save(root / "cat" / f"x{suffix.upper()}", format=kind(suffix))
    assert len(folder.load(root, 4).samples) == 12 + len(folder.SUFFIXES)


def kind(suffix: str) -> str:
    return {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}.get(suffix, suffix[1:].upper())


def test_cmyk(root) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(root / "cat" / "c.jpg")
    sample, notes = only(root, "cat/c.jpg")
    assert np.abs(sample.astype(int) - np.array(RED)[:, None, None]).max() < 6
    assert notes == (f"folder {root}: 1 of 13 pictures were converted (1 CMYK)",)


def test_sixteen_bits_keep_their_scale(root) -> None:
    values = np.full((8, 8), 0x8080, dtype=np.uint16)
    Image.fromarray(values).save(root / "cat" / "deep.png")
    sample, notes = only(root, "cat/deep.png")
    assert set(sample.ravel().tolist()) == {0x80}  # Pillow alone would clip it to 255
    assert "(1 16-bit)" in notes[0]


def test_thirty_two_bits_are_spread_by_their_own_range(root) -> None:
    values = np.full((8, 8), -1000, dtype=np.int32)
    values[:, 4:] = 2_000_000_000
    Image.fromarray(values).save(root / "cat" / "deep.tiff")
    sample, notes = only(root, "cat/deep.tiff")
    assert sample[0, 0].tolist() == [0] * 4 + [255] * 4
    assert "(1 32-bit)" in notes[0]


@pytest.mark.parametrize("channels", [3, 1])
def test_lab(root, channels: int) -> None:
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (8, 8), GREEN), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    lab.save(root / "cat" / "lab.tiff")
    sample, notes = only(root, "cat/lab.tiff", channels=channels)
    wanted = np.asarray(GREEN if channels == 3 else [150])
    assert np.abs(sample[:, 0, 0].astype(int) - wanted).max() <= 16
    assert "(1 LAB)" in notes[0]


@pytest.mark.parametrize("packed", [True, False])
def test_a_png_with_a_long_text(root, packed: bool) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("workflow", "node " * 1_000_000, zip=packed)
    Image.new("RGB", (8, 8), GREEN).save(root / "cat" / "made.png", pnginfo=about)
    before = PngImagePlugin.MAX_TEXT_CHUNK
    assert only(root, "cat/made.png")[0][:, 0, 0].tolist() == list(GREEN)
    assert before == PngImagePlugin.MAX_TEXT_CHUNK
    assert len(folder.load(root, 8, buckets=True).buckets) == 1


@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_that_are_no_squares(root, channels: int) -> None:
    assert folder.load(root, (16, 32), channels).samples.shape == (12, channels, 16, 32)
    assert folder.load(root, (32, 16), channels).samples.shape == (12, channels, 32, 16)
    assert folder.load(root, 16, channels).samples.shape == (12, channels, 16, 16)
    with pytest.raises(BadInput, match="16x32 was asked for; drop buckets"):
        folder.load(root, (16, 32), buckets=True)


def test_palette_and_one_bit(root) -> None:
    Image.new("RGB", (8, 8), GREEN).quantize(4).save(root / "cat" / "p.png")
    Image.new("1", (8, 8), 1).save(root / "cat" / "one.png")
    sample, notes = only(root, "cat/p.png")
    assert sample[:, 0, 0].tolist() == list(GREEN)
    assert "(2 palette)" in notes[0]


def test_alpha_is_laid_on_white(root) -> None:
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(root / "cat" / "a.png")
    Image.new("LA", (8, 8), (0, 128)).save(root / "cat" / "la.png")
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0] * 256)
    palette.save(root / "cat" / "pt.png", transparency=0)
    sample, notes = only(root, "cat/a.png")
    assert (sample == 255).all()
    assert set(only(root, "cat/la.png")[0].ravel().tolist()) == {127}
    assert (only(root, "cat/pt.png")[0] == 255).all()
    assert "3 of 15 pictures were converted (3 alpha, 1 palette)" in notes[0]


def test_turned_by_exif(root) -> None:
    image = Image.new("RGB", (16, 16), RED)
    image.paste(BLUE, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[picture.ORIENTATION] = 3  # upside down
    image.save(root / "cat" / "e.png", exif=exif)
    sample, notes = only(root, "cat/e.png")
    assert sample[:, 0, 4].tolist() == list(RED)
    assert sample[:, -1, 4].tolist() == list(BLUE)
    assert "(1 turned by EXIF)" in notes[0]


def test_an_animation_s_first_frame(root) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (GREEN, RED)]
    frames[0].save(root / "cat" / "g.gif", save_all=True, append_images=frames[1:])
    assert only(root, "cat/g.gif")[0][:, 0, 0].tolist() == list(GREEN)


def bomb() -> bytes:
    """A PNG whose header claims 20,000 x 20,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def truncated() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()[:6000]


BAD = {
    "text": (b"hello", "not a picture of a known format"),
    "empty": (b"", "not a picture of a known format"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture of a known format"),
    "truncated": (truncated(), "damaged"),
    "bomb": (bomb(), "pixels, a decompression bomb"),
    "jpeg": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not a picture of a known format|damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named(root, name: str) -> None:
    content, why = BAD[name]
    (root / "dog" / "bad.png").write_bytes(content)
    with pytest.raises(BadInput, match=rf"dog/bad\.png: .*({why}).*skip_bad = true") as caught:
        folder.load(root, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_skipped_and_counted(root, name: str) -> None:
    (root / "cat" / "bad.png").write_bytes(BAD[name][0])
    data = folder.load(root, 8, skip_bad=True)
    assert data.samples.shape == (12, 3, 8, 8)
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    [note] = data.notes
    assert note.startswith(f"folder {root}: 1 of 13 pictures were skipped, the first is {root / 'cat' / 'bad.png'}: ")


def test_a_picture_a_little_over_pillow_s_limit_is_refused_too(root, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (11, 10)).save(root / "cat" / "large.png")  # Pillow itself only warns under twice the limit
    with pytest.raises(BadInput, match="more than 100 pixels, a decompression bomb"):
        folder.load(root, 8)


@pytest.mark.parametrize(
    ("dark", "light", "read"),
    [(0.0, 1.0, [0, 255]), (0.2, 0.6, [51, 153]), (0.0, 204.0, [0, 204]), (-3.0, 9000.0, [0, 255]), (7e9, 7e9, [0, 0])],
)
def test_floats_are_read_as_what_they_look_like(root, dark: float, light: float, read: list[int]) -> None:
    values = np.full((8, 8), dark, dtype=np.float32)
    values[:, 4:] = light
    Image.fromarray(values).save(root / "cat" / "f.tiff")
    sample, notes = only(root, "cat/f.tiff", channels=1)
    assert sample[0, 0, [0, -1]].tolist() == read
    assert "(1 floating-point)" in notes[0]


def test_floats_that_are_none(root) -> None:
    Image.new("F", (8, 8), float("nan")).save(root / "cat" / "f.tiff")
    with pytest.raises(BadInput, match="floating-point pixels that are NaN or Inf"):
        folder.load(root, 8)


def test_at_most_a_tenth_is_skipped(root) -> None:
    for i in range(2):
        (root / "cat" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(BadInput, match="2 of 14 pictures can't be read, at most 10% may be skipped"):
        folder.load(root, 8, skip_bad=True)


def test_a_pipe_is_not_opened(root) -> None:
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(BadInput, match=r"pipe\.png: not a regular file"):
        folder.load(root, 8)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_links_out_of_the_folder_are_refused(root, tmp_path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    Image.new("RGB", (8, 8)).save(outside / "x.png")
    target = {"file": outside / "x.png", "folder": outside, "dangling": tmp_path / "nowhere.png"}[kind]
    (root / "cat" / "link.png").symlink_to(target)
    with pytest.raises(BadInput, match=r"link\.png is a link that leads out of"):
        folder.load(root, 8)


def test_links_to_themselves_do_not_hang(root) -> None:
    (root / "cat" / "up").symlink_to("..")
    (root / "loop").symlink_to("loop")
    assert folder.load(root, 8).samples.shape == (12, 3, 8, 8)
    (root / "cat" / "self.png").symlink_to("self.png")
    with pytest.raises(BadInput, match=r"self\.png: not a regular file"):
        folder.load(root, 8)


def test_links_inside_are_followed(root) -> None:
    (root / "dog" / "again.png").symlink_to("../cat/0.png")
    assert only(root, "dog/again.png")[0][:, 0, 0].tolist() == list(RED)


@pytest.mark.parametrize(("count", "found"), [(0, "no pictures"), (1, r"only one picture \(0\.png\)")])
def test_too_few(tmp_path, count: int, found: str) -> None:
    root = tmp_path / "few"
    root.mkdir()
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes(b"")
    for i in range(count):
        Image.new("RGB", (8, 8)).save(root / f"{i}.png")
    with pytest.raises(BadInput, match=rf"few holds {found}; .*\.png, \.jpg, .*\.tiff"):
        folder.load(root, 8)


def test_no_folder(tmp_path) -> None:
    with pytest.raises(BadInput, match="is not there"):
        folder.load(tmp_path / "none", 8)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is not a folder"):
        folder.load(tmp_path / "file", 8)


@pytest.mark.parametrize("bad", [None, 3])
def test_threads_and_none_read_alike(root, tmp_path, monkeypatch, bad) -> None:
    if bad is not None:
        (root / "cat" / f"{bad}.png").write_bytes(b"hello")
    found = []
    for small_bytes in (0, 10**9):
        monkeypatch.setattr(folder, "SMALL_BYTES", small_bytes)
        monkeypatch.setattr(folder.os, "cpu_count", lambda: 3)
        monkeypatch.setenv("HASTEN_CACHE", str(tmp_path / f"cache{small_bytes}"))
        data = folder.load(root, 4, skip_bad=True)
        found.append((data.digest(), data.notes))
        if bad is not None:
            with pytest.raises(BadInput, match=r"cat/3\.png: not a picture"):
                folder.load(root, 8)
    assert found[0] == found[1]


@pytest.fixture
def read(monkeypatch) -> list[Path]:
    """The files that are decoded."""
    paths = []
    original = picture.read
    monkeypatch.setattr(picture, "read", lambda *a: paths.append(a[0]) or original(*a))
    return paths


def test_decoded_once_until_something_changes(root, read) -> None:
    first = folder.load(root, 8)
    assert (folder.load(root, 8).samples == first.samples).all()
    assert len(read) == 12
    folder.load(root, 4)
    assert len(read) == 24
    Image.new("RGB", (8, 8), GREEN).save(root / "cat" / "0.png")
    os.utime(root / "cat" / "0.png", ns=(1, 1))
    assert folder.load(root, 8).samples[0, :, 0, 0].tolist() == list(GREEN)
    assert len(read) == 36


def test_what_a_link_leads_to_may_change_too(root, read) -> None:
    (root / "dog" / "link.png").symlink_to("../cat/.hidden.png")
    for colour in (RED, GREEN):
        Image.new("RGB", (8, 8), colour).save(root / "cat" / ".hidden.png")
        os.utime(root / "cat" / ".hidden.png", ns=(1, sum(colour) + colour[0]))
        assert folder.load(root, 8).samples[-1, :, 0, 0].tolist() == list(colour)


def test_what_was_skipped_is_cached_and_refused_without_the_option(root, read) -> None:
    (root / "cat" / "3.png").write_bytes(b"hello")
    first = folder.load(root, 8, skip_bad=True)
    again = folder.load(root, 8, skip_bad=True)
    assert again.notes == first.notes != ()
    assert again.labels.tolist() == [0] * 5 + [1] * 6
    assert len(read) == 12
    with pytest.raises(BadInput, match=r"cat/3\.png: not a picture"):
        folder.load(root, 8)
    assert len(read) == 12


def test_progress_is_told_while_pictures_are_decoded(root, monkeypatch) -> None:
    monkeypatch.setattr(folder, "AT_ONCE", 5)
    told = []
    folder.load(root, 8, progress=lambda *done: told.append(done))
    assert told == [(5, 12), (10, 12), (12, 12)]
    folder.load(root, 8, progress=lambda *done: told.append(done))
    assert len(told) == 3


def test_ctrl_c_leaves_nothing_behind(root, tmp_path, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "AT_ONCE", 5)
    with pytest.raises(KeyboardInterrupt):
        folder.load(root, 8, progress=interrupted)
    assert list((tmp_path / "cache" / "folder").iterdir()) == []


class TestBuckets:
    """Pictures of three extents: eight square ones, six of 2:1, three upright."""

    @pytest.fixture
    def mixed(self, tmp_path) -> Path:
        root = tmp_path / "mixed"
        extents = {"a": ((20, 20), RED, 8), "b": ((80, 40), GREEN, 6), "c": ((40, 56), BLUE, 3)}
        for label, (extent, colour, count) in extents.items():
            (root / label).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", extent, colour).save(root / label / f"{i}.jpg", quality=100)
        return root

    def test_each_picture_goes_to_the_nearest_shape(self, mixed) -> None:
        data = folder.load(mixed, 64, buckets=True)
        assert [b.samples.shape for b in data.buckets] == [(8, 3, 64, 64), (6, 3, 48, 88), (3, 3, 80, 56)]
        assert [b.labels.tolist() for b in data.buckets] == [[0] * 8, [1] * 6, [2] * 3]
        assert all(b.label_names == ("a", "b", "c") for b in data.buckets)
        assert data.shape == (3, 64, 64)  # who needs one shape gets the most frequent
        assert data.samples is data.buckets[0].samples
        assert all(b.samples[:, c].min() > 240 for b, c in zip(data.buckets, (0, 1, 2), strict=True))

    def test_turned_pictures_go_by_what_is_seen(self, mixed) -> None:
        exif = Image.Exif()
        exif[picture.ORIENTATION] = 6  # a quarter turn
        for suffix in ("jpg", "png"):
            Image.new("RGB", (80, 40), BLUE).save(mixed / "c" / f"turned.{suffix}", exif=exif)
        data = folder.load(mixed, 64, buckets=True)
        assert (2, 3, 88, 48) in [b.samples.shape for b in data.buckets]

    def test_headers_and_pixels_are_read_once(self, mixed, read, monkeypatch) -> None:
        extents = []
        original = picture.extent
        monkeypatch.setattr(picture, "extent", lambda path: extents.append(path) or original(path))
        told = []
        for _ in range(2):
            folder.load(mixed, 64, buckets=True, progress=lambda *done: told.append(done))
        assert (len(read), len(extents)) == (17, 17)
        assert told[-1] == (17, 17)
        assert [done for done, _ in told] == sorted(done for done, _ in told)

    def test_a_bad_picture_is_counted_once(self, mixed) -> None:
        (mixed / "b" / "bad.jpg").write_bytes(b"hello")
        with pytest.raises(BadInput, match=r"b/bad\.jpg: not a picture"):
            folder.load(mixed, 64, buckets=True)
        data = folder.load(mixed, 64, skip_bad=True, buckets=True)
        assert sum(len(b.samples) for b in data.buckets) == 17
        assert data.notes[0].startswith(f"folder {mixed}: 1 of 18 pictures were skipped")

    @pytest.mark.parametrize(("size", "multiple"), [(32, 8), (64, 8), (100, 4), (256, 8), (512, 64)])
    def test_shapes_are_few_near_and_multiples(self, size: int, multiple: int) -> None:
        found = folder.shapes(size, multiple)
        assert 3 <= len(found) <= 7
        assert all(side % multiple == 0 for shape in found for side in shape)
        assert all(abs(high * wide / size**2 - 1) < 0.13 for high, wide in found if size >= 8 * multiple)
        assert (size, size) in found
        assert sorted((wide, high) for high, wide in found) == found
