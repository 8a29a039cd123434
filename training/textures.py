"""Fields of pixels without any figure: noise, blank pages, textures, and filled shapes such as clothes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from training.corruption import clouds, smooth_noise

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

_SIDE = 28


def silhouette(generator: np.random.Generator, side: int) -> FloatArray:
    """A filled outline, mostly symmetric, as clothes, shoes and bags have, with shades and patterns: `[side, side]`."""
    large = 112
    canvas = Image.new("L", (large, large))
    pencil = ImageDraw.Draw(canvas)
    kind = generator.random()
    if kind < 0.2:  # a wedge on a sole, as a shoe
        heel, toe, low = generator.uniform(0.2, 0.6), generator.uniform(0.45, 0.8), generator.uniform(0.7, 0.95)
        way = generator.choice([-1, 1])
        profile = [(-0.48, low), (-0.48, heel), (generator.uniform(-0.3, 0), heel), (generator.uniform(0, 0.3), toe)]
        outline = np.array([*profile, (0.48, (toe + low) / 2), (0.48, low)]) * (way, 1) + (0.5, 0)
    elif kind < 0.75:  # symmetric about the vertical: widths at several heights
        heights = np.linspace(generator.uniform(0, 0.15), generator.uniform(0.85, 1), int(generator.integers(3, 9)))
        widths = generator.uniform(0.08, 0.5, len(heights))
        if generator.random() < 0.6:
            widths = 0.5 * widths + 0.5 * generator.uniform(0.15, 0.45)
        right = np.stack([0.5 + widths, heights], axis=1)
        left = np.stack([0.5 - widths, heights], axis=1)[::-1]
        outline = np.vstack([right, left])
    else:
        angles = np.sort(generator.uniform(0, 2 * np.pi, int(generator.integers(5, 14))))
        radii = generator.uniform(0.2, 0.5, len(angles))
        outline = np.stack([0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)], axis=1)
    pencil.polygon([tuple(p) for p in (outline * large).tolist()], fill=255)
    if generator.random() < 0.3:  # sleeves
        shoulder, reach, length = (
            generator.uniform(0.05, 0.25),
            generator.uniform(0.3, 0.5),
            generator.uniform(0.15, 0.8),
        )
        for way in (-1, 1):
            sleeve = [
                (0.5, shoulder),
                (0.5 + way * reach, shoulder + length),
                (0.5 + way * (reach - 0.15), shoulder + length),
            ]
            pencil.polygon([(x * large, y * large) for x, y in sleeve], fill=255)
    if generator.random() < 0.15:  # a handle
        x, y = generator.uniform(0.15, 0.35), generator.uniform(0, 0.15)
        pencil.arc(
            [v * large for v in (x, y, 1 - x, y + 0.7)], 180, 360, fill=255, width=int(generator.integers(2, 10))
        )
    if generator.random() < 0.35:  # a gap between two legs, or an opening
        x, width = generator.uniform(0.35, 0.65), generator.uniform(0.02, 0.1)
        pencil.rectangle(((x - width) * large, generator.uniform(0.2, 0.6) * large, (x + width) * large, large), fill=0)
    if generator.random() < 0.25:
        x, y, radius = generator.uniform(0.2, 0.8), generator.uniform(0.1, 0.7), generator.uniform(0.05, 0.2)
        pencil.ellipse([v * large for v in (x - radius, y - radius, x + radius, y + radius)], fill=0)
    mask = np.asarray(canvas.resize((side, side), Image.Resampling.BOX), np.float32) / 255
    tone = generator.uniform(60, 255)
    shade = tone * (1 - generator.uniform(0, 0.7) * clouds((side, side), generator))
    if generator.random() < 0.25:
        shade = shade * (1 - generator.uniform(0.2, 0.8) * (_stripes_of(side, generator) > 0))
    return np.asarray(mask * shade, np.float32)


def _stripes_of(side: int, generator: np.random.Generator) -> FloatArray:
    angle, period = generator.uniform(0, np.pi), generator.uniform(2, 14) * side / 28
    y, x = np.indices((side, side))
    wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + generator.uniform(0, 6.3))
    return np.asarray(wave, np.float32)


def noise(generator: np.random.Generator, side: int) -> FloatArray:
    """Noise of one of four kinds, of any strength: values of about 0 to 255, `[side, side]`."""
    shape, kind = (side, side), generator.integers(4)
    if kind == 0:
        low, high = np.sort(generator.uniform(0, 255, 2))
        return generator.uniform(low, high + 20, shape).astype(np.float32)
    if kind == 1:
        return generator.normal(generator.uniform(0, 255), generator.uniform(5, 120), shape).astype(np.float32)
    if kind == 2:
        return 255 * (generator.random(shape) < generator.uniform(0.01, 0.9)).astype(np.float32)
    cells = int(generator.integers(6, 20))
    fine = generator.random((cells, cells), np.float32).repeat(side // cells + 1, 0).repeat(side // cells + 1, 1)
    return 255 * fine[:side, :side]


def blank(generator: np.random.Generator, side: int) -> FloatArray:
    """One gray level, some in uneven light, or with faint noise or specks: `[side, side]`."""
    field = np.full((side, side), generator.choice([0.0, 255.0, generator.uniform(0, 255)]), np.float32)
    if generator.random() < 0.4:  # light that may be too bright for part of the page
        y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
        field *= 1 + generator.uniform(0, 0.3) * (generator.uniform(-1, 1) * x + generator.uniform(-1, 1) * y)
    if generator.random() < 0.5:
        field += generator.normal(0, generator.uniform(0.5, 12), field.shape)
    if generator.random() < 0.35:  # specks
        scale = side / _SIDE
        for _ in range(generator.integers(1, 5)):
            y, x, size = (scale * generator.integers((0, 0, 1), (27, 27, 4))).astype(int)
            field[y : y + size, x : x + size] = generator.uniform(0, 255)
    return field


def texture(generator: np.random.Generator, side: int) -> FloatArray:
    """Stripes, checks, clouds, patches or a gradient: `[side, side]`."""
    kind = generator.integers(5)
    if kind == 0:
        wave = _stripes_of(side, generator)
        field = wave if generator.random() < 0.5 else np.sign(wave)
    elif kind == 1:
        field = np.sign(_stripes_of(side, generator) * _stripes_of(side, generator))
    elif kind == 2:
        field = 2 * clouds((side, side), generator) - 1
    elif kind == 3:
        cells = int(generator.integers(3, 12))
        field = np.sign(smooth_noise((side, side), cells, generator) - generator.uniform(0.35, 0.65))
    else:
        y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij")
        angle = generator.uniform(0, 6.3)
        field = np.clip(
            generator.uniform(0.5, 5) * (x * np.cos(angle) + y * np.sin(angle) + generator.normal(0, 0.4)), -1, 1
        )
    low, high = np.sort(generator.uniform(0, 255, 2)) if generator.random() < 0.6 else (0, 255)
    return np.asarray(low + (high - low) * (field + 1) / 2, np.float32)
