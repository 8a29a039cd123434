"""Preparation: turns any image into what a network was trained on. Server and client share it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.decoding import MAX_PIXELS, decode_image
from serving.images.geometry import bounding_box, centre_by_mass, centre_of_mass, resize, sharpened, thickened
from serving.images.image_status import ImageStatus
from serving.images.ink import find_ink
from serving.images.surroundings import find_photo

Uint8Array = npt.NDArray[np.uint8]

# Pixels to keep of a large image while it is decoded. A digit of a thirtieth of its page still has 30 pixels.
_ENOUGH_PIXELS = 1 << 20
# Pixels of the copy in which ink is searched.
_SEARCHED_PIXELS = 1 << 16
# If the bounding box of the ink is smaller than this in the copy, in pixels, the ink is searched again around it.
_SMALL_BOX = 40
# Ink whose box is smaller than this share of the smaller side of its page is a speck.
_SPECK = 0.025

_FIELD = 28


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """An image, ready for the network.

    Attributes:
        pixels: uint8 `[height, width, channels]` of the model.
        steps: What was done, in order, in words for users.
        height: Height of the original image, in pixels.
        width: Width of the original image, in pixels.
        status: What the preparation noticed: `NO_INK`, `SEVERAL_DIGITS`, or nothing.
    """

    pixels: Uint8Array
    steps: tuple[str, ...]
    height: int
    width: int
    status: ImageStatus = ImageStatus.DIGIT


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How to prepare images for one network.

    Attributes:
        kind: `mnist` or `resize`, from the model's manifest.
        height: Height of the network's input, in pixels.
        width: Width of the network's input, in pixels.
        channels: 1 for gray, 3 for colour.
        max_pixels: Limit on the size of an encoded image, checked before it is decoded.
    """

    kind: str
    height: int
    width: int
    channels: int
    max_pixels: int = MAX_PIXELS

    def decode(self, content: bytes) -> PreparedImage:
        """Decodes and prepares an image.

        Args:
            content: All bytes of a file.

        Raises:
            InvalidImage: The bytes are not an image in a supported format, damaged, or too large.
        """
        image = decode_image(
            content,
            channels=self.channels,
            max_pixels=self.max_pixels,
            enough_pixels=max(_ENOUGH_PIXELS, 16 * self.height * self.width),
        )
        return dataclasses.replace(self.prepare(image.pixels), height=image.height, width=image.width)

    def prepare(self, image: Uint8Array) -> PreparedImage:
        """Prepares a decoded image.

        Args:
            image: uint8 `[h, w, channels]`, of any size.
        """
        status = ImageStatus.DIGIT
        if self.kind == "mnist" and self.channels == 1:
            field, steps, status = _as_mnist(image[..., 0])
            pixels = resize(field[..., np.newaxis], self.height, self.width)
        elif image.shape[:2] == (self.height, self.width):
            pixels, steps = image, ("left as it is",)
        else:
            pixels, steps = resize(image, self.height, self.width), (f"resized to {self.width} x {self.height}",)
        return PreparedImage(pixels=pixels, steps=steps, height=image.shape[0], width=image.shape[1], status=status)


def _as_mnist(gray: Uint8Array) -> tuple[Uint8Array, tuple[str, ...], ImageStatus]:
    """Lays an image out as MNIST does: light ink on black, scaled and centred. See `centre_by_mass` for the source."""
    if looks_like_mnist(gray) and gray.max() >= 192:
        return gray, ("left as it is",), ImageStatus.DIGIT
    steps = []
    searched = _reduced(gray)
    if (photo := find_photo(searched)) is not None:
        searched = _reduced(gray := _part(gray, photo, searched.shape))
        steps.append(f"cut out a photo of {_size(gray)}")
    ink = find_ink(searched)
    if _is_speck(ink.pixels):
        ink = dataclasses.replace(ink, pixels=np.zeros_like(searched))
    if searched is not gray and (box := _small_box(ink.pixels)) is not None:
        searched = _reduced(gray := _part(gray, box, searched.shape))
        steps.append(f"cut out {_size(gray)} around the ink")
        ink = find_ink(searched)
    if searched is not gray:
        steps.append(f"reduced to {_size(searched)}")
    if ink.dark:
        steps.append("inverted, since the ink is darker than its background")
    steps.append("background removed, contrast stretched")
    if ink.lines:
        steps.append(f"removed printed lines along {ink.lines} side{'s' * (ink.lines > 1)}")
    if not ink.pixels.any():
        return np.zeros((_FIELD, _FIELD), np.uint8), (*steps, "found no ink"), ImageStatus.NO_INK
    status = ImageStatus.DIGIT
    if ink.several:
        steps.append("found several digits")
        status = ImageStatus.SEVERAL_DIGITS
    if looks_like_mnist(ink.pixels):
        return ink.pixels, tuple(steps), status
    field = centre_by_mass(thickened(sharpened(ink.pixels)))
    # Thin strokes become faint when they shrink, but MNIST's strokes are not faint.
    field = np.minimum(255, field * (255 / max(1, field.max()))).astype(np.uint8)
    steps.append(
        f"ink of {_size(ink.pixels[bounding_box(ink.pixels)])} fitted into 20 x 20, centred by mass in 28 x 28"
    )
    return field, tuple(steps), status


def _reduced(gray: Uint8Array) -> Uint8Array:
    scale = math.sqrt(_SEARCHED_PIXELS / gray.size)
    if scale >= 1:
        return gray
    return resize(gray[..., np.newaxis], *(max(1, round(side * scale)) for side in gray.shape))[..., 0]


def _small_box(ink: Uint8Array) -> tuple[slice, slice] | None:
    """Returns the box around ink in a reduced copy, with a margin, or None if the ink is not small there."""
    rows, columns = bounding_box(ink)
    margin = max(rows.stop - rows.start, columns.stop - columns.start)
    if not 0 < margin < _SMALL_BOX:
        return None
    return (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )


def _is_speck(ink: Uint8Array) -> bool:
    """Returns whether ink is too small for its page to be a digit."""
    return bool(max(ink.shape) >= 2 * _FIELD and max(_box_shape(ink)) < _SPECK * min(ink.shape))


def _part(gray: Uint8Array, box: tuple[slice, slice], shape: tuple[int, ...]) -> Uint8Array:
    """Returns the part of the full image that is in this box of a reduced copy of this shape."""
    rows, columns = (
        slice(int(part.start * scale), math.ceil(part.stop * scale))
        for part, scale in zip(box, np.divide(gray.shape, shape), strict=True)
    )
    return gray[rows, columns]


def looks_like_mnist(gray: Uint8Array) -> bool:
    """Returns whether an image looks like MNIST's: 28 x 28, light ink on black, scaled and centred."""
    if gray.shape != (_FIELD, _FIELD):
        return False
    rim = np.concatenate([gray[:2].ravel(), gray[-2:].ravel(), gray[2:-2, :2].ravel(), gray[2:-2, -2:].ravel()])
    if np.count_nonzero(rim) > 8 or not gray.any() or np.count_nonzero(gray) > gray.size // 2:
        return False
    return 18 <= max(_box_shape(gray)) <= 21 and all(abs(c - _FIELD / 2) <= 1.5 for c in centre_of_mass(gray))


def _size(image: Uint8Array) -> str:
    """Returns the size of an image as people say it, width first."""
    height, width = image.shape
    return f"{width} x {height}"


def _box_shape(ink: Uint8Array) -> tuple[int, ...]:
    """Returns height and width of the ink's bounding box, in pixels."""
    return ink[bounding_box(ink)].shape
