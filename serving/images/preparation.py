"""Preparation: any image made into what a network was trained on, the same in the server and in the client."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.decoding import MAX_PIXELS, decode_image
from serving.images.ink import find_ink
from serving.images.layout import centre_by_mass, resize

Uint8Array = npt.NDArray[np.uint8]

# What is kept of a large image as it is decoded. A digit that is a thirtieth of its page still has 30 pixels.
_ENOUGH_PIXELS = 1 << 20
# Among how many ink is looked for.
_SEARCHED_PIXELS = 1 << 16
# Ink whose box is smaller than this there, in pixels, is looked at again without the rest of its page.
_SMALL_BOX = 40

_FIELD = 28


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedImage:
    """An image as the network takes it.

    Attributes:
        pixels: uint8 `[height, width, channels]` of the model.
        steps: What was done, in order, in words for people.
        height: Rows of the image as it came, in pixels.
        width: Columns, likewise.
    """

    pixels: Uint8Array
    steps: tuple[str, ...]
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images are made into what a network takes.

    Attributes:
        kind: `mnist` or `resize`, as the model's manifest has it.
        height: Rows that the network takes, in pixels.
        width: Columns, likewise.
        channels: 1 for gray, 3 for colour.
        max_pixels: An encoded image of more is refused before it is decoded.
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
            InvalidImage: They are no image that is known here, damaged, or too large.
        """
        image = decode_image(
            content,
            channels=self.channels,
            max_pixels=self.max_pixels,
            enough_pixels=max(_ENOUGH_PIXELS, 16 * self.height * self.width),
        )
        pixels, steps = self.prepare(image.pixels)
        return PreparedImage(pixels=pixels, steps=steps, height=image.height, width=image.width)

    def prepare(self, image: Uint8Array) -> tuple[Uint8Array, tuple[str, ...]]:
        """Prepares an image that is decoded already.

        Args:
            image: uint8 `[h, w, channels]`, of any size.

        Returns:
            uint8 `[height, width, channels]`, and what was done.
        """
        if self.kind == "mnist" and self.channels == 1:
            pixels, steps = _as_mnist(image[..., 0])
            field = resize(pixels[..., np.newaxis], self.height, self.width)
            return field, steps
        if image.shape[:2] == (self.height, self.width):
            return image, ("left as it is",)
        return resize(image, self.height, self.width), (f"resized to {self.height} x {self.width}",)


def _as_mnist(gray: Uint8Array) -> tuple[Uint8Array, tuple[str, ...]]:
    """The data set's own layout: light ink on black, boxed and centred; see `centre_by_mass` for the source."""
    if _is_laid_out(gray) and gray.max() >= 192:
        return gray, ("left as it is",)
    steps = []
    searched = _reduced(gray)
    ink, dark = find_ink(searched)
    if searched is not gray and (part := _around(ink, gray)) is not None:
        steps.append("cut out {} x {} around the ink".format(*part.shape))
        searched = _reduced(gray := part)
        ink, dark = find_ink(searched)
    if searched is not gray:
        steps.append("reduced to {} x {}".format(*searched.shape))
    if dark:
        steps.append("inverted, since the ink is darker than its background")
    steps.append("background removed, contrast stretched")
    if _is_laid_out(ink):
        return ink, tuple(steps)
    if not ink.any():
        return centre_by_mass(ink), (*steps, "found no ink")
    field = centre_by_mass(ink)
    # Thin strokes are faint once they are reduced; the data set's are not.
    field = np.minimum(255, field * (255 / field.max())).astype(np.uint8) if field.any() else field
    return field, (*steps, "ink of {} x {} fitted into 20 x 20, centred by mass in 28 x 28".format(*_box(ink)))


def _reduced(gray: Uint8Array) -> Uint8Array:
    scale = math.sqrt(_SEARCHED_PIXELS / gray.size)
    return (
        gray if scale >= 1 else resize(gray[..., np.newaxis], *(max(1, round(n * scale)) for n in gray.shape))[..., 0]
    )


def _around(ink: Uint8Array, gray: Uint8Array) -> Uint8Array | None:
    """The part of an image around ink that was found in a smaller copy, where it is too small to be judged there."""
    if not ink.any() or max(_box(ink)) >= _SMALL_BOX:
        return None
    bounds = []
    for axis in (0, 1):
        places = np.flatnonzero(ink.any(axis=1 - axis))
        scale = gray.shape[axis] / ink.shape[axis]
        bounds.append(
            slice(int(max(0, places[0] - max(_box(ink))) * scale), int((places[-1] + 1 + max(_box(ink))) * scale))
        )
    return gray[bounds[0], bounds[1]]


def _is_laid_out(gray: Uint8Array) -> bool:
    """Whether an image looks like the data set's: 28 x 28, light ink on black, in a box, centred."""
    if gray.shape != (_FIELD, _FIELD):
        return False
    rim = np.concatenate([gray[:2].ravel(), gray[-2:].ravel(), gray[2:-2, :2].ravel(), gray[2:-2, -2:].ravel()])
    if np.count_nonzero(rim) > 8 or not gray.any() or np.count_nonzero(gray) > gray.size // 2:
        return False
    rows, columns = np.flatnonzero(gray.any(axis=1)), np.flatnonzero(gray.any(axis=0))
    if not 18 <= max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1 <= 21:
        return False
    total = float(gray.sum(dtype=np.float64))
    places = np.arange(_FIELD) + 0.5
    y = float(gray.sum(axis=1, dtype=np.float64) @ places) / total
    x = float(gray.sum(axis=0, dtype=np.float64) @ places) / total
    return abs(y - _FIELD / 2) <= 1.5 and abs(x - _FIELD / 2) <= 1.5


def _box(ink: Uint8Array) -> tuple[int, int]:
    """Height and width of the box around ink, in pixels."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
