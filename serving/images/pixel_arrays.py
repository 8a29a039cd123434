"""Arrays of numbers that are images beyond doubt, whatever their dtype and layout, as bytes in the layout we use."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage

Uint8Array = npt.NDArray[np.uint8]
ImageShape = tuple[int, int, int]

# How far from a whole number a value may be, in 255ths of white. Four decimals leave 0.013, and float16 leaves 0.062.
# Values that never were bytes lie anywhere, so an image of them is not taken by chance.
_TOLERANCE, _HALF_TOLERANCE = 0.02, 0.07
_EXACT = 1e-4
_BLOCK_VALUES = 1 << 20
_CHANNELS = (1, 3)
_TAKEN = "[n, height, width], [n, height, width, 1 or 3], [n, 1 or 3, height, width], [n, height * width], or one image"


def to_images(array: npt.ArrayLike, shape: ImageShape | None = None) -> Uint8Array:
    """Returns images as bytes, if there is only one way to read the array.

    Args:
        array: One image or n images of the layouts that `Layout.of` takes, with values that `PixelScale` takes.
        shape: Height, width and channels that the images must have; by default those of the array.

    Returns:
        uint8 `[n, height, width, channels]`.

    Raises:
        InvalidImage: The values or the layout leave a doubt. The message names it.
    """
    values = np.asarray(array)
    layout, scale = Layout.of(values.shape, shape), PixelScale()
    scale.check_dtype(values.dtype)
    pixels = values[np.newaxis] if layout.single else values
    # In blocks, so that the copies for the arithmetic stay small.
    rows = max(1, _BLOCK_VALUES // max(1, math.prod(layout.stored)))
    starts = range(0, len(pixels), rows)
    for start in starts:
        scale.look_at(pixels[start : start + rows])
    images = np.empty((len(pixels), *layout.shape), np.uint8)
    for start in starts:
        images[start : start + rows] = layout.arrange(scale.to_bytes(pixels[start : start + rows]))
    return images


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How an array holds images.

    Attributes:
        shape: Height, width and channels of an image.
        stored: The dimensions of an image in the array.
        single: Whether the array is one image, without a dimension for their number.
    """

    shape: ImageShape
    stored: tuple[int, ...]
    single: bool

    @classmethod
    def of(cls, found: tuple[int, ...], wanted: ImageShape | None = None, *, may_be_single: bool = True) -> Layout:
        """Finds the layout of an array.

        Taken are `[n, height, width]`, the same with 1 or 3 channels as the last or the second dimension, gray images
        as rows of `height * width` values, and one image in each of these layouts.

        Args:
            found: The dimensions of the array.
            wanted: Height, width and channels that the images must have. By default rows of values are square images.
            may_be_single: Whether the array may be one image; else its first dimension is their number.

        Raises:
            InvalidImage: The array can't hold such images.
        """
        count_images(found)
        choices = [True, False] if _is_single(found) else [False, True]
        choices = choices if may_be_single else [False]
        for single in choices:
            stored = found if single else found[1:]
            if wanted is not None and wanted in _shapes(stored, wanted):
                return cls(shape=wanted, stored=stored, single=single)
        stored = found if choices[0] else found[1:]
        if shapes := _shapes(stored, wanted):
            if wanted is None:
                return cls(shape=shapes[0], stored=stored, single=choices[0])
            raise InvalidImage(f"images of {size_text(shapes[0])}, but the model takes {size_text(wanted)}")
        if len(stored) == 1:
            if wanted is None:
                raise InvalidImage(f"rows of {stored[0]} values, which are no square; save it as [n, height, width]")
            if stored[0] == math.prod(wanted):
                raise InvalidImage("rows of values, whose order of colours would be a guess; save it as [n, h, w, 3]")
            raise InvalidImage(f"rows of {stored[0]} values, but the model takes images of {size_text(wanted)}")
        raise InvalidImage(f"has the dimensions {list(found)}, but images are {_TAKEN}")

    def arrange(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns n images, which are stored in this layout, as `[n, height, width, channels]`."""
        if len(self.stored) == 3 and self.stored != self.shape:
            return np.moveaxis(values.reshape(-1, *self.stored), 1, -1)
        return values.reshape(-1, *self.shape)


def count_images(found: tuple[int, ...]) -> int:
    """Returns how many images an array of these dimensions holds, without knowing their size.

    Raises:
        InvalidImage: Such an array holds no images.
    """
    if not 1 <= len(found) <= 4:
        raise InvalidImage(f"has the dimensions {list(found)}, but images are {_TAKEN}")
    return 1 if _is_single(found) else found[0]


def size_text(shape: tuple[int, ...]) -> str:
    """Returns a size as text, such as `28 x 28 x 1`."""
    return " x ".join(map(str, shape))


def _is_single(found: tuple[int, ...]) -> bool:
    """Whether an array is one image: `[height, width]` with equal sides, rather than rows of that many values."""
    if len(found) == 3:
        return found[2] in _CHANNELS
    return len(found) == 1 or (len(found) == 2 and found[0] == found[1])


def _shapes(stored: tuple[int, ...], wanted: ImageShape | None) -> list[ImageShape]:
    """Returns the shapes that an image may have which is stored with these dimensions, the most usual first."""
    if len(stored) == 1:
        if wanted is not None:
            return [wanted] if wanted[2] == 1 and stored[0] == math.prod(wanted) else []
        side = math.isqrt(stored[0])
        return [(side, side, 1)] if side * side == stored[0] else []
    if len(stored) == 2:
        return [(stored[0], stored[1], 1)]
    shapes = []
    if len(stored) == 3 and stored[2] in _CHANNELS:
        shapes.append((stored[0], stored[1], stored[2]))
    if len(stored) == 3 and stored[0] in _CHANNELS:
        shapes.append((stored[1], stored[2], stored[0]))
    return shapes


class PixelScale:
    """What the numbers of a file mean: bytes, or shares of white from 0 to 1. One answer for all of its blocks.

    Look at every block first, then convert them. Taken are whole numbers from 0 to 255 in any dtype, floats from 0 to 1
    that are multiples of 1/255 up to rounding, and bools. Numbers other than uint8 that are all 0 or 1 are refused: 1
    may be white, or almost black. If all are 0, both readings give the same.
    """

    def __init__(self) -> None:
        self._low, self._high = math.inf, -math.inf
        self._tolerance = _TOLERANCE
        self._part: float | None = None  # a value that is not whole
        self._between: float | None = None  # a value that is no multiple of 1/255
        self._exact = True  # whether all blocks were of bytes or bools

    def check_dtype(self, dtype: np.dtype[Any]) -> None:
        """Raises InvalidImage if values of this dtype can't be pixels."""
        if dtype.kind not in "buif":
            kind = "Python objects" if dtype.hasobject else str(dtype)
            raise InvalidImage(f"values are {kind}, but pixels are numbers")

    def look_at(self, block: npt.NDArray[Any]) -> None:
        """Takes the values of a block into account.

        Raises:
            InvalidImage: They can't be pixels.
        """
        if not block.size or block.dtype in (np.uint8, np.bool_):
            return
        self._exact = False
        low, high = block.min(), block.max()
        if not np.isfinite(low) or not np.isfinite(high):
            raise InvalidImage("has values that are not numbers (NaN or infinity)")
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        if block.dtype == np.float16:
            self._tolerance = _HALF_TOLERANCE
        if block.dtype.kind == "f":
            values = block.astype(np.float64)
            # Up to 1, a 255th must not pass for a rounded 0.
            self._part = self._part or _off(values, np.where(values < 1.5, _EXACT, self._tolerance))
            if self._high <= 1 + self._tolerance / 255:
                between = _off(values * 255, self._tolerance)
                self._between = self._between or (None if between is None else between / 255)

    def to_bytes(self, block: npt.NDArray[Any]) -> Uint8Array:
        """Returns a block as uint8 of the same dimensions.

        Raises:
            InvalidImage: The values leave a doubt.
        """
        if block.dtype == np.uint8:
            return block
        if block.dtype == np.bool_:
            return block.astype(np.uint8) * np.uint8(255)
        factor = self._factor()
        if block.dtype.kind in "iu":  # 0 and 1 of a file whose other blocks have shares of white
            return block.astype(np.uint8) * np.uint8(factor)
        return np.rint(block.astype(np.float64) * factor).clip(0, 255).astype(np.uint8)

    def check(self) -> None:
        """Raises InvalidImage if the values that were seen leave a doubt."""
        if not self._exact:
            self._factor()

    def _factor(self) -> int:
        slack = self._tolerance
        if self._low > self._high:
            return 1  # nothing was seen: all rows were left out
        if self._low < -slack or self._high > 255 + slack:
            raise InvalidImage(
                f"values from {self._low:g} to {self._high:g}, but pixels are whole numbers from 0 to 255, or "
                "multiples of 1/255 from 0 to 1; undo the normalisation"
            )
        if self._part is None:
            if round(self._high) == 1:
                raise InvalidImage(
                    "all values are 0 or 1, and 1 may be white or almost black; save it as bool, or multiply it by 255"
                )
            return 1
        if self._high > 1 + slack / 255:
            raise InvalidImage(f"values up to {self._high:g}, of which {self._part:g} is not a whole number; round it")
        if self._between is not None:
            raise InvalidImage(
                f"values from 0 to 1, of which {self._between:g} is not a multiple of 1/255; "
                "save the images as bytes (0 to 255)"
            )
        return 255


def _off(values: npt.NDArray[np.float64], tolerance: float | npt.NDArray[np.float64]) -> float | None:
    """Returns a value that is not a whole number, or None."""
    off = np.abs(values - np.rint(values)) > tolerance
    return float(values[off][0]) if off.any() else None
