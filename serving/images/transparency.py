"""Transparent images on the background that makes what is opaque stand out."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

_MODES = {1: "L", 3: "RGB"}
# Pixels that the background is chosen from.
_SAMPLES = 1 << 20
# Pixels count as opaque from this share of the most opaque one's alpha on. Shadows and soft edges are below it.
_OPAQUE = 0.75
# An image is a page, not ink, if this share of it is opaque, and some of that differs this much from its mean.
_PAGE = 0.5
_PAGE_CONTRAST = 96
_PAGE_INK = 0.01


def background_of(image: Image.Image) -> int:
    """Chooses the background of a decoded image: 255, white, or 0, black.

    Light ink is seen on black, other ink on white. Opaque pages, which have ink of their own, go on in their clear
    corners: light ones on white, dark ones on black. White is also for images that are fully transparent or opaque.
    """
    if not image.has_transparency_data:
        return 255
    scale = math.sqrt(_SAMPLES / (image.width * image.height))
    if scale < 1:
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        image = image.resize(size, Image.Resampling.NEAREST)
    gray, alpha = _gray_and_alpha(image)
    if not alpha.any():
        return 255
    opaque = alpha >= _OPAQUE * alpha.max()
    shades = gray[opaque].astype(np.float32)
    mean = float(shades.mean())
    differing = float((np.abs(shades - mean) > _PAGE_CONTRAST).mean())
    is_page = float(opaque.mean()) >= _PAGE and differing >= _PAGE_INK
    return 255 if (mean >= 128) == is_page else 0


def flatten(image: Image.Image, channels: int, background: int) -> Image.Image:
    """Converts an image to 8-bit gray (1 channel) or RGB (3), on a gray `background` from 0 to 255."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 255, not scale them
        gray, alpha = _gray_and_alpha(image)
        image = Image.fromarray(np.where(alpha == 0, np.uint8(background), gray))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (background,) * 3 + (255,)), rgba)
    return image.convert(_MODES[channels])


def _gray_and_alpha(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Returns two uint8 arrays `[h, w]`."""
    if image.mode.startswith("I;16"):
        values = np.asarray(image)
        transparent = image.info.get("transparency")
        clear = values == transparent if isinstance(transparent, int) else np.zeros(values.shape, bool)
        return (values >> 8).astype(np.uint8), np.where(clear, np.uint8(0), np.uint8(255))
    rgba = image.convert("RGBA")
    return np.asarray(rgba.convert("RGB").convert("L")), np.asarray(rgba.getchannel("A"))
