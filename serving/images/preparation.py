"""Preparation: turns any image into what a network was trained on. Server and client share it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.decoding import MAX_PIXELS, decode_image
from serving.images.geometry import bounding_box, centre_by_mass, centre_of_mass, resize
from serving.images.image_status import ImageStatus
from serving.images.ink import find_ink

Uint8Array = npt.NDArray[np.uint8]

# Pixels to keep of a large image while it is decoded. A digit of a thirtieth of its page still has 30 pixels.
_ENOUGH_PIXELS = 1 << 20
# Pixels of the copy in which ink is searched.
_SEARCHED_PIXELS = 1 << 16
# If the bounding box of the ink is smaller than this in the copy, in pixels, the ink is searched again around it.
_SMALL_BOX = 40

_FIELD = 28
_NO_INK = "found no ink"


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
        pixels, steps = self.prepare(image.pixels)
        status = ImageStatus.NO_INK if _NO_INK in steps else ImageStatus.DIGIT
        return PreparedImage(pixels=pixels, steps=steps, height=image.height, width=image.width, status=status)

    def prepare(self, image: Uint8Array) -> tuple[Uint8Array, tuple[str, ...]]:
        """Prepares a decoded image.

        Args:
            image: uint8 `[h, w, channels]`, of any size.

        Returns:
            uint8 `[height, width, channels]`, and the steps that were done.
        """
        if self.kind == "mnist" and self.channels == 1:
            pixels, steps = _as_mnist(image[..., 0])
            return resize(pixels[..., np.newaxis], self.height, self.width), steps
        if image.shape[:2] == (self.height, self.width):
            return image, ("left as it is",)
        return resize(image, self.height, self.width), (f"resized to {self.width} x {self.height}",)


def _as_mnist(gray: Uint8Array) -> tuple[Uint8Array, tuple[str, ...]]:
    """Lays an image out as MNIST does: light ink on black, scaled and centred. See `centre_by_mass` for the source."""
    if looks_like_mnist(gray) and gray.max() >= 192:
        return gray, ("left as it is",)
    steps = []
    searched = _reduced(gray)
    ink, dark = find_ink(searched)
    if searched is not gray and (part := _crop_around(ink, gray)) is not None:
        steps.append(f"cut out {_size(part)} around the ink")
        searched = _reduced(gray := part)
        ink, dark = find_ink(searched)
    if searched is not gray:
        steps.append(f"reduced to {_size(searched)}")
    if dark:
        steps.append("inverted, since the ink is darker than its background")
    steps.append("background removed, contrast stretched")
    if looks_like_mnist(ink):
        return ink, tuple(steps)
    field = centre_by_mass(ink)
    if not ink.any():
        return field, (*steps, _NO_INK)
    if field.any():  # thin strokes become faint when they shrink, but MNIST's strokes are not faint
        field = np.minimum(255, field * (255 / field.max())).astype(np.uint8)
    return field, (*steps, f"ink of {_size(ink[bounding_box(ink)])} fitted into 20 x 20, centred by mass in 28 x 28")


def _reduced(gray: Uint8Array) -> Uint8Array:
    scale = math.sqrt(_SEARCHED_PIXELS / gray.size)
    if scale >= 1:
        return gray
    return resize(gray[..., np.newaxis], *(max(1, round(side * scale)) for side in gray.shape))[..., 0]


def _crop_around(ink: Uint8Array, gray: Uint8Array) -> Uint8Array | None:
    """Returns the part of the full image around ink that is small in the reduced copy, or None if it is not small."""
    box, margin = bounding_box(ink), max(_box_shape(ink))
    if not 0 < margin < _SMALL_BOX:
        return None
    rows, columns = (
        slice(int(max(0, part.start - margin) * scale), int((part.stop + margin) * scale))
        for part, scale in zip(box, np.divide(gray.shape, ink.shape), strict=True)
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
