"""One picture file: its extent, and its pixels in the wanted shape, or why it can't be read.

Only the decoders of ``FORMATS`` are let at a file, and a picture of more pixels than Pillow's limit is refused before
it is decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
VERSION = 2  # of how pictures are read: what was kept by another is read again
MODES = {3: "RGB", 1: "L"}
ORIENTATION = 0x0112
MOST_TEXT = 1 << 26  # bytes of a PNG's texts, unpacked: workflows of several MB are kept there, Pillow takes one
ON_ITS_SIDE = range(5, 9)  # orientations that swap width and height


@contextmanager
def strict() -> Iterator[None]:
    """Around all reading, for these are the whole process's: decompression bombs raise, and a PNG may say much."""
    before = PngImagePlugin.MAX_TEXT_CHUNK
    PngImagePlugin.MAX_TEXT_CHUNK = max(before, MOST_TEXT)
    try:
        with _warnings():
            yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK = before


@contextmanager
def _warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on metadata; what can't be decoded raises
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def extent(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels as the picture is seen, from its header alone; None when that can't be read."""
    if not path.is_file():  # a pipe or a device would block
        return None
    try:
        with Image.open(path, formats=FORMATS) as file:
            # of a PNG, only what stands before the pixels: for the rest, Pillow would decode them
            told = file.format != "PNG" or "exif" in file.info
            turned = told and file.getexif().get(ORIENTATION, 1) in ON_ITS_SIDE
            return (file.height, file.width) if turned else (file.width, file.height)
    except Exception:  # decoders fail on damaged files in any way there is; `read` says how
        return None


def read(path: Path, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], list[str]] | str:
    """The picture as uint8 of ``shape`` (channels, height, width) and how it had to be converted; or what is wrong.

    It is turned as its EXIF says, laid on white, cut to the middle part of the shape's proportions, and resized.
    """
    if not path.is_file():
        return "not a regular file"
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.load()
            how = ["turned by EXIF"] if file.getexif().get(ORIENTATION, 1) != 1 else []
            image = ImageOps.exif_transpose(file)
    except PIL.UnidentifiedImageError:
        return f"not a picture of a known format ({', '.join(FORMATS)})"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, a decompression bomb"
    except Exception as error:  # decoders fail on damaged files in any way there is
        return f"damaged ({str(error) or type(error).__name__})"
    try:
        converted = _converted(image, how)
    except Exception as error:  # a mode that Pillow itself can't convert
        return f"{image.mode} pixels that can't be converted ({str(error) or type(error).__name__})"
    if isinstance(converted, str):
        return converted
    return fitted(converted, shape), how


def fitted(image: Image.Image, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An opaque picture as uint8 of ``shape`` (channels, height, width): RGB or grey, cut to the middle part of the
    shape's proportions, and resized."""
    channels, height, width = shape
    image = image.convert(MODES[channels])
    wide = max(1, min(image.width, round(image.height * width / height)))
    high = max(1, min(image.height, round(image.width * height / width)))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    middle = image.crop((left, top, left + wide, top + high))  # resize(box=...) would let its surroundings bleed in
    image = middle.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _converted(image: Image.Image, how: list[str]) -> Image.Image | str:
    """A picture of a kind that Pillow makes RGB or grey as it is seen, and in ``how`` what was done; or what is wrong.

    Whole numbers of 32 bits that are no 16-bit values are spread from black to white by the picture's own range; so
    are floating-point ones, but for those that lie in [0, 1] or [0, 255], as is usual.
    """
    if image.mode == "F":
        floats = np.asarray(image)
        if not np.isfinite(floats).all():
            return "floating-point pixels that are NaN or Inf"
        low, high = (0.0, 1.0 if floats.max() <= 1.0 else 255.0)
        if floats.min() < low or floats.max() > high:
            low, high = float(floats.min()), float(floats.max())
        image = Image.fromarray(np.round((floats - low) * (255.0 / ((high - low) or 1.0))).astype(np.uint8))
        how.append("floating-point")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # Pillow's own conversion clips at 255
        low, high = int(values.min()), int(values.max())
        deep = low < 0 or high > 65535
        if deep:
            values = (values - low) * 65535 // (high - low or 1)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        how.append("32-bit" if deep else "16-bit")
    if image.mode in ("P", "1"):
        how.append("palette")
    if image.has_transparency_data:
        how.append("alpha")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        how.append(image.mode)
    return image.convert("RGB") if image.mode == "LAB" else image  # Pillow makes it RGB only, not grey
