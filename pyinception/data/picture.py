"""One image file to one array of bytes, or one sentence that says why not.

    file -> 8-bit RGB, upright -> box cut out -> scaled to the wanted size

Without a box of the caller's it is the largest centred one of the wanted aspect.

Every mode that Pillow reads either has a written conversion below or is refused: a picture is
never trained on garbled. The file's content decides its format, not its name.
"""

from __future__ import annotations

import errno
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyinception.data.dataset import require

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the upright picture

# Raster formats only: PostScript, for one, would start an interpreter.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MAX_PIXELS = 2**30 // 12  # 89,478,485: where Pillow starts to warn of decompression bombs
# Names of Szegedy et al. 2015, section 6 -> Pillow's; all but nearest widen with the reduction, so
# they do not alias.
_FILTERS = {"bilinear": "BILINEAR", "area": "BOX", "nearest": "NEAREST", "cubic": "BICUBIC"}
FILTERS = tuple(_FILTERS)
_OF_THE_FILE = (errno.ENOENT, errno.EISDIR, errno.EACCES, errno.ENOTDIR, errno.ELOOP)
_ORIENTATION = 0x0112
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_PLAIN = ("RGB", "L", "1", "P", "CMYK", "YCbCr")
# What undoes each EXIF orientation (CIPA DC-008, tag 0x0112); 1 is upright.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class PictureError(ValueError):
    """A file is not a picture that can be shown as 8-bit RGB; the text is the reason."""


def read_picture(
    source: Path | bytes,
    size: tuple[int, int] | None,
    *,
    box: Callable[[int, int], Box | None] | None = None,
    interpolation: str = "bilinear",
    max_pixels: int = MAX_PIXELS,
    background: int = 255,
) -> NDArray[np.uint8]:
    """pixels = box(W, H) of the upright RGB picture, resampled to `size` in one step.

    Parameters
    ----------
    source : Path or bytes
        File, or content of one: JPEG, PNG, BMP, GIF (first frame), WebP, TIFF (first page) or
        PNM, whatever its suffix.
    size : (H, W) or None
        Rows and columns of the result; None leaves the picture as large as it is.
    box : callable or None
        ``box(width, height)`` is the part to show. None, or a box of None: the largest centred
        one of the wanted aspect.
    interpolation : str
        One of `FILTERS`.
    max_pixels : int
        Refuse a larger picture before decoding it.
    background : int
        Grey level that shines through transparent pixels.

    Returns
    -------
    (H, W, 3) uint8

    Raises
    ------
    PictureError
        With the reason: truncated, not an image, too large, or a mode without a conversion.
    ImportError
        If Pillow is absent (extra ``train``).
    """
    pillow = require("PIL.Image", "train", "reading image files")
    try:
        with warnings.catch_warnings():
            # Warnings on odd metadata are no fault; our own limit stands below Pillow's.
            warnings.simplefilter("ignore")
            with pillow.open(_file(source), formats=FORMATS) as image:
                width, height = image.size
                _check_extent(width, height, max_pixels)
                image.load()
                upright = _upright_rgb(pillow, image, background)
            if size is None:
                return np.asarray(upright)
            return np.asarray(_fit(pillow, upright, size, box, interpolation))
    except PictureError:
        raise
    except pillow.UnidentifiedImageError:
        raise PictureError(_unidentified(source)) from None
    except pillow.DecompressionBombError:
        raise PictureError(f"more than {2 * max_pixels:,} pixels: decompression bomb") from None
    except MemoryError:
        raise  # no fault of the picture's
    # Decoders raise whatever their parser stumbled over: OSError, SyntaxError, struct.error ...
    except Exception as error:
        number = getattr(error, "errno", None)  # a decoder's OSError has none
        if number is not None and number not in _OF_THE_FILE:
            raise
        raise PictureError(_reason(error)) from error


def resample(
    pixels: NDArray[np.uint8],
    size: tuple[int, int],
    box: Box | None,
    interpolation: str = "bilinear",
) -> NDArray[np.uint8]:
    """The part `box` of (H, W, C) bytes, C = 1 or 3, as `read_picture` would show it."""
    pillow = require("PIL.Image", "train", "sampled crops")
    grey = pixels.shape[2] == 1
    image = pillow.fromarray(pixels[..., 0] if grey else pixels)
    fitted = np.asarray(_fit(pillow, image, size, lambda *extent: box, interpolation))
    return fitted[..., None] if grey else fitted


def _file(source: Path | bytes) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _check_extent(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PictureError(f"no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} x {height} = {width * height:,} pixels, the limit is {max_pixels:,}"
        )


def _upright_rgb(pillow: Any, image: Any, background: int) -> Any:
    """Return the image as mode RGB with its EXIF orientation applied."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        orientation = 1  # unreadable metadata: the pixels are still whole
    if image.mode in _SIXTEEN_BIT or image.mode == "I":
        image = _from_sixteen_bits(pillow, image)
    if image.mode in _ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = pillow.new("RGBA", image.size, (background,) * 3 + (255,))
        image = pillow.alpha_composite(ground, image)
    elif image.mode not in _PLAIN:
        raise PictureError(f"mode {image.mode} has no conversion to 8-bit RGB")
    image = image.convert("RGB")
    turn = _UPRIGHT.get(orientation)
    return image if turn is None else image.transpose(pillow.Transpose[turn])


def _from_sixteen_bits(pillow: Any, image: Any) -> Any:
    """Return grey levels round(v / 257): Pillow's own conversion would clip at 255."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise PictureError(
            f"32-bit levels [{levels.min()}, {levels.max()}], expected 16-bit ones in [0, 65535]"
        )
    return pillow.fromarray(((levels + 128) // 257).astype(np.uint8))


def _fit(
    pillow: Any,
    image: Any,
    size: tuple[int, int],
    box: Callable[[int, int], Box | None] | None,
    interpolation: str,
) -> Any:
    height, width = size
    part = None if box is None else box(image.width, image.height)
    if part is None:
        scale = min(image.width / width, image.height / height)
        left, top = (image.width - scale * width) / 2, (image.height - scale * height) / 2
        part = (left, top, left + scale * width, top + scale * height)
    resampling = pillow.Resampling[_FILTERS[interpolation]]
    return image.resize((width, height), resampling, box=part)


def _unidentified(source: Path | bytes) -> str:
    head = source[:8] if isinstance(source, bytes) else _head(source)
    if not head:
        return "empty file"
    return f"not an image in one of {', '.join(FORMATS)} (begins with {head!r})"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, OSError):
        return error.strerror or text  # whose file it is, the caller says
    return f"damaged ({type(error).__name__}: {text})"
