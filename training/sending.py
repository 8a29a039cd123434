"""Sending: what cameras, scanners and files do to pictures of digits, and what preparation leaves of them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from serving.images.geometry import bounding_box
from serving.images.preparation import Preparation

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

_RESAMPLING = (Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_MNIST = Preparation(kind="mnist", height=28, width=28, channels=1)


def sent(picture: Image.Image, generator: np.random.Generator) -> Uint8Array:
    """Sends a figure, light on black, as people do, and prepares what arrives: uint8 `[28, 28]`.

    It is cut out with some margin or none, gets any size, paper and ink, uneven light, blur, noise, and JPEG.
    """
    ink = np.asarray(picture)
    rows, columns = bounding_box(ink)
    if rows.stop == 0:
        return np.zeros((28, 28), np.uint8)
    figure = ink[rows, columns]
    side = float(np.exp(generator.uniform(np.log(20), np.log(160))))
    scale = side / max(figure.shape)
    height, width = (max(4, round(length * scale)) for length in figure.shape)
    picture, resampling = Image.fromarray(figure), _RESAMPLING[int(generator.integers(3))]
    if coarse := generator.random() < 0.3:  # a field of few pixels, enlarged later, mostly in blocks
        few = generator.uniform(7, 17) / max(figure.shape)
        picture = picture.resize([max(2, round(side * few)) for side in figure.shape[::-1]], Image.Resampling.BOX)
        resampling = Image.Resampling.NEAREST if generator.random() < 0.5 else resampling
    figure = np.asarray(picture.resize((width, height), resampling))
    margins = np.zeros(4, int) if generator.random() < 0.15 else (generator.uniform(0.02, 0.7, 4) * side).astype(int)
    share: FloatArray = np.pad(figure, margins.reshape(2, 2)).astype(np.float32) / 255
    if generator.random() < 0.1:
        share = _in_cell(share, generator)
    if not coarse and generator.random() < 0.3:  # a program without smooth edges
        share = (share > 0.5).astype(np.float32)
    paper, full = generator.uniform(160, 255), generator.uniform(0, 90)
    if generator.random() < 0.35:
        paper, full = full, paper
    values = paper * (1 - share) + full * share
    if generator.random() < 0.4:
        values = values * _light(values.shape, generator)
    return _photographed(values, generator)


def sent_field(values: FloatArray, generator: np.random.Generator) -> Uint8Array:
    """Sends gray levels, `[h, w]`, light or dark, as people send a picture, and prepares them: uint8 `[28, 28]`."""
    return _photographed(values if generator.random() < 0.5 else 255 - values, generator)


def _photographed(values: FloatArray, generator: np.random.Generator) -> Uint8Array:
    """Adds a camera's noise and blur, and JPEG, and prepares what arrives."""
    if generator.random() < 0.5:
        values = values + generator.normal(0, generator.uniform(1, 10), values.shape)
    gray = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    if generator.random() < 0.3:
        gray = gray.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.3)))
    if generator.random() < 0.5:
        gray = _as_jpeg(gray, int(generator.integers(30, 95)))
    return _MNIST.prepare(np.asarray(gray)[..., np.newaxis]).pixels[..., 0]


def _in_cell(share: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Prints lines of a form around a figure, on all sides or on some."""
    height, width = share.shape
    margin = max(2, int(max(height, width) * generator.uniform(0.08, 0.4)))
    cell = np.pad(share, margin)
    line = max(1, round(max(cell.shape) * generator.uniform(0.015, 0.04)))
    inset = int(margin * generator.uniform(0, 0.6))
    tone, sides = generator.uniform(0.6, 1), generator.random(4) < generator.choice([0.4, 1.0])
    for turn, drawn in enumerate(sides):
        rim = np.rot90(cell, turn)
        if drawn:
            rim[inset : inset + line] = tone
    return cell


def _light(shape: tuple[int, ...], generator: np.random.Generator) -> FloatArray:
    angle, depth = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.5)
    y, x = np.meshgrid(*(np.linspace(-0.5, 0.5, length) for length in shape), indexing="ij")
    way = y * np.sin(angle) + x * np.cos(angle)
    return np.asarray(1 - depth * (way / max(1e-6, np.ptp(way)) + 0.5), np.float32)


def _as_jpeg(gray: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    gray.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("L")
