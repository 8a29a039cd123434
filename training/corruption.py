"""Corruption of raw pixels: what cameras, channels and clumsy preparation leave of a field of 28 x 28 pixels.

The kinds are those of Norman Mu and Justin Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision", 2019. Their
strengths are drawn at random.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

_SHAPE = (28, 28)


def corrupt(images: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Corrupts raw pixels, each image in one of a dozen ways: light, fog, noise, lines, blur, places and sizes.

    Args:
        images: uint8 `[n, 28, 28]`.
        generator: Source of the changes.

    Returns:
        uint8 `[n, 28, 28]`.
    """
    corrupted = np.empty_like(images)
    for number, kind in enumerate(generator.integers(len(_CORRUPTIONS), size=len(images))):
        values = _CORRUPTIONS[kind](images[number].astype(np.float32), generator)
        corrupted[number] = np.clip(np.rint(values), 0, 255)
    return corrupted


def smooth_noise(shape: tuple[int, int], cells: int, generator: np.random.Generator) -> FloatArray:
    """Returns random values from 0 to 1 that change smoothly, as clouds do, float32 `[h, w]`."""
    coarse = generator.random((cells, cells)).astype(np.float32)
    smooth: FloatArray = np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
    return smooth


def clouds(shape: tuple[int, int], generator: np.random.Generator) -> FloatArray:
    """Returns smooth noise summed over several scales, from 0 to 1, float32 `[h, w]`."""
    weight, total = 1.0, np.zeros(shape, np.float32)
    decay = generator.uniform(0.4, 0.85)
    for cells in (2, 4, 8, 16):
        total += weight * smooth_noise(shape, cells, generator)
        weight *= decay
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(1e-6, high - low))


def _brighter(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    return values + 255 * generator.uniform(0.1, 0.75)


def _fog(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    strength = generator.uniform(0.3, 1.6)
    fogged = values + 255 * strength * clouds(_SHAPE, generator)
    return fogged / (1 + strength if generator.random() < 0.8 else 1)


def _contrast(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    low = generator.uniform(0, 150)
    return low + values * generator.uniform(0.3, 1.0) * (255 - low) / 255


def _gaussian_noise(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    return values + generator.normal(0, generator.uniform(10, 90), values.shape)


def _shot_noise(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    photons = generator.uniform(2, 30)
    return generator.poisson(values / 255 * photons) / photons * 255


def _impulses(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    amount = generator.uniform(0.02, 0.35)
    return np.where(generator.random(values.shape) < amount, 255.0 * generator.integers(0, 2, values.shape), values)


def _bands(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Inverts bands of columns or rows, of one or of several widths."""
    start, width, count = generator.integers(0, 16), generator.integers(2, 12), generator.integers(1, 4)
    chosen = np.zeros(28, bool)
    for number in range(count):
        chosen[start + 2 * number * width : start + (2 * number + 1) * width] = True
    mask = chosen[None, :] if generator.random() < 0.7 else chosen[:, None]
    return np.where(mask, 255 - values, values)


def _lines(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draws one to three lines from side to side: whole, dotted or in zigzag."""
    layer = Image.new("L", (112, 112))
    pencil = ImageDraw.Draw(layer)
    for _ in range(generator.integers(1, 4)):
        start, end = generator.uniform(0, 112, 2), generator.uniform(0, 112, 2)
        side = generator.integers(2)
        start[side], end[side] = 0, 112
        steps = int(generator.integers(2, 12))
        points = start + (end - start) * np.linspace(0, 1, steps)[:, None]
        normal = np.array([end[1] - start[1], start[0] - end[0]]) / max(1.0, float(np.hypot(*(end - start))))
        if generator.random() < 0.5:
            points += normal * (generator.uniform(0, 12) * np.resize([-1, 1], steps))[:, None]
        if generator.random() < 0.5:
            for x, y in start + (end - start) * np.linspace(0, 1, int(generator.integers(10, 32)))[:, None]:
                pencil.rectangle((x - 2, y - 2, x + 2, y + 2), fill=255)
        else:
            pencil.line([tuple(p) for p in points.tolist()], fill=255, width=int(generator.integers(2, 7)))
    drawn = np.asarray(layer.resize((28, 28), Image.Resampling.BOX), np.float32)
    return np.asarray(np.maximum(values, drawn * generator.uniform(0.7, 1.3)))


def _spatter(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    wet = smooth_noise(_SHAPE, int(generator.integers(6, 14)), generator) > generator.uniform(0.62, 0.85)
    return np.where(wet, values * generator.uniform(0, 1) + generator.uniform(0, 255), values)


def _blur(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    image = Image.fromarray(values.astype(np.uint8))
    kind = generator.integers(3)
    if kind == 0:
        return np.asarray(image.filter(ImageFilter.GaussianBlur(generator.uniform(0.5, 1.7))), np.float32)
    if kind == 1:  # each pixel takes one from nearby, as through rough glass
        reach = int(generator.integers(1, 3))
        y, x = np.indices(values.shape)
        y, x = (np.clip(c + generator.integers(-reach, reach + 1, values.shape), 0, 27) for c in (y, x))
        glass = Image.fromarray(values[y, x].astype(np.uint8))
        return np.asarray(glass.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.0))), np.float32)
    steps = np.linspace(-0.5, 0.5, 9) * generator.uniform(3, 11)
    angle = generator.uniform(0, 2 * np.pi)
    moved = [
        np.asarray(
            image.transform(
                _SHAPE,
                Image.Transform.AFFINE,
                (1, 0, s * np.cos(angle), 0, 1, s * np.sin(angle)),
                Image.Resampling.BILINEAR,
            ),
            np.float32,
        )
        for s in steps
    ]
    return np.asarray(np.mean(moved, axis=0))


def _edges(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Keeps only the outline of the ink."""
    ink = Image.fromarray(np.where(values > generator.uniform(60, 160), 255, 0).astype(np.uint8))
    outline = np.asarray(ink, np.float32) - np.asarray(ink.filter(ImageFilter.MinFilter(3)), np.float32)
    return outline * generator.uniform(0.6, 1)


def _moved(values: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Moves, turns, slants, shrinks or enlarges the figure in its field."""
    size, angle = generator.uniform(0.55, 1.15), np.radians(generator.uniform(-35, 35))
    shear, reach = generator.uniform(-0.5, 0.5), 7 * generator.random()
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    kind = generator.integers(4)  # mostly one change at a time
    if kind != 0:
        matrix = np.eye(2)
    if kind == 1:
        matrix = np.array([[1, shear], [0, 1.0]])
    if kind == 2:
        matrix = matrix / size
    centre = np.full(2, 13.5)
    offset = centre - matrix @ (centre + (generator.uniform(-reach, reach, 2) if kind >= 2 else np.zeros(2)))
    data = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    image = Image.fromarray(values.astype(np.uint8))
    moved = image.transform((28, 28), Image.Transform.AFFINE, tuple(map(float, data)), Image.Resampling.BILINEAR)
    return np.asarray(moved, np.float32)


_CORRUPTIONS = (
    *(_brighter, _fog, _fog, _contrast, _gaussian_noise, _shot_noise, _impulses, _impulses, _bands, _bands),
    *(_lines, _lines, _spatter, _blur, _blur, _edges, _moved, _moved, _moved),
)
