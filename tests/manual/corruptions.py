"""The corruptions of MNIST-C, written from their description, for whole arrays of images at once.

Source: N. Mu and J. Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision", 2019. The kinds and their strengths
are those of the benchmark; the random numbers are not, so figures differ a little from those on its own files.

All functions take float32 `[n, 28, 28]` from 0 to 1 and a generator, and return the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from canny import canny_edges
from scipy import ndimage

FloatArray = np.ndarray
Corruption = Callable[[FloatArray, np.random.Generator], FloatArray]

_SIDE = 28
_CENTRE = (_SIDE - 1) / 2


def corruptions(images: np.ndarray, *, seed: int = 0, only: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name of each corruption and the corrupted images.

    Args:
        images: uint8 `[n, 28, 28]`, light on black.
        seed: Of the random numbers. Each corruption has its own.
        only: Only corruptions whose name contains this.

    Yields:
        Name, and uint8 `[n, 28, 28]`.
    """
    clean = images.astype(np.float32) / 255
    for number, (name, corrupt) in enumerate(CORRUPTIONS.items()):
        if only in name:
            corrupted = corrupt(clean.copy(), np.random.default_rng([seed, number]))
            yield name, (corrupted.clip(0, 1) * 255).astype(np.uint8)


def _shot_noise(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Counts so few photons that their number is noisy: three for white."""
    return generator.poisson(3 * x).astype(np.float32) / 3


def _impulse_noise(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Makes 17 % of the pixels black or white."""
    hit, white = generator.random(x.shape) < 0.17, generator.random(x.shape) < 0.5
    return np.where(hit, white.astype(np.float32), x)


def _glass_blur(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Blurs, swaps half of the pixels with a neighbour above or to the left, twice, and blurs again.

    The benchmark blurs along columns only.
    """
    x = np.ascontiguousarray(np.moveaxis(_blur(x, (0, 0.7, 0)), 0, -1))
    everyone = np.arange(x.shape[-1])
    for _ in range(2):
        for row in range(_SIDE - 1, 1, -1):
            for column in range(_SIDE - 1, 1, -1):
                moved = everyone[generator.random(len(everyone)) < 0.5]
                to_row, to_column = (at - generator.integers(0, 2, len(moved)) for at in (row, column))
                here = x[row, column, moved]
                x[row, column, moved] = x[to_row, to_column, moved]
                x[to_row, to_column, moved] = here
    return _blur(np.moveaxis(x, -1, 0), (0, 0.7, 0))


def _motion_blur(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Smears 21 pixels to one side, with weights of a Gaussian of 3 pixels, at an angle of -45 to 45 degrees."""
    angle = np.radians(generator.uniform(-45, 45, (len(x), 1, 1)))
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    image, row, column = np.ogrid[: len(x), :_SIDE, :_SIDE]
    blurred = np.zeros_like(x)
    for step, weight in enumerate(weights / weights.sum()):
        rows = (row + np.ceil(step * np.sin(angle) - 0.5)).clip(0, _SIDE - 1).astype(np.intp)
        columns = (column + np.ceil(step * np.cos(angle) - 0.5)).clip(0, _SIDE - 1).astype(np.intp)
        blurred += np.float32(weight) * x[image, rows, columns]
    return blurred


def _shear(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Shears by 0.4 radians to either side."""
    return _either(x, generator, lambda sign: [[1, -np.sin(0.4 * sign)], [0, np.cos(0.4)]])


def _scale(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Shrinks to 70 %."""
    return _warp(x, np.eye(2) / 0.7)


def _rotate(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Turns by 0.4 radians, 23 degrees, to either side."""
    sine, cosine = np.sin(0.4), np.cos(0.4)
    return _either(x, generator, lambda sign: [[cosine, -sine * sign], [sine * sign, cosine]])


def _brightness(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Makes everything brighter by half of the range."""
    return np.minimum(x + 0.5, 1)


def _translate(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Shifts by 3 pixels along both axes, each to either side."""
    moved, way = np.empty_like(x), generator.integers(0, 4, len(x))
    for number, shift in enumerate(((3, 3), (3, -3), (-3, 3), (-3, -3))):
        moved[way == number] = ndimage.shift(x[way == number], (0, *shift), order=0)
    return moved


def _stripe(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Inverts the left and the right quarter."""
    x[:, :, :7] = 1 - x[:, :, :7]
    x[:, :, 21:] = 1 - x[:, :, 21:]
    return x


def _fog(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Adds three times a cloud, and divides by four."""
    foggy = np.empty_like(x)
    for start in range(0, len(x), 100):
        part = x[start : start + 100]
        brightest = part.max(axis=(1, 2), keepdims=True)
        cloud = _clouds(len(part), generator)
        foggy[start : start + 100] = (part + 3 * cloud) * brightest / (brightest + 3)
    return foggy


def _clouds(count: int, generator: np.random.Generator, side: int = 256, decay: float = 1.4) -> FloatArray:
    """Makes clouds by the diamond-square algorithm on a torus, and returns their corners; float32 `[count, 28, 28]`.

    The amplitude falls by `decay` squared from level to level. Each cloud reaches from 0 to 1.
    """
    cloud = np.zeros((count, side, side), np.float32)
    step, amplitude = side, 1.0
    while step > 1:
        half = step // 2

        def mean(of: FloatArray, level: float = amplitude) -> FloatArray:
            return of / 4 + np.float32(level) * (2 * generator.random(of.shape, dtype=np.float32) - 1)

        corners = cloud[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        cloud[:, half::step, half::step] = mean(pairs + np.roll(pairs, -1, axis=2))
        middles = cloud[:, half::step, half::step]
        beside = corners + np.roll(corners, -1, axis=2)
        cloud[:, ::step, half::step] = mean(middles + np.roll(middles, 1, axis=1) + beside)
        cloud[:, half::step, ::step] = mean(middles + np.roll(middles, 1, axis=2) + pairs)
        step, amplitude = half, amplitude / decay**2
    cloud -= cloud.min(axis=(1, 2), keepdims=True)
    return cloud[:, :_SIDE, :_SIDE] / cloud.max(axis=(1, 2), keepdims=True)


def _spatter(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Covers some places with gray drops."""
    liquid = _blur(generator.normal(0.65, 0.3, x.shape).astype(np.float32), (0, 1, 1))
    drops = _blur((liquid > 0.65).astype(np.float32), (0, 1.5, 1.5))
    drops[drops < 0.8] = 0
    return x * (1 - drops) + 63 / 255 * drops


def _dotted_line(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draws a line from the left side to the right; every other two columns are left out."""
    start, end = generator.integers(0, 27, (2, len(x)))
    line = _lines(np.zeros(len(x)), start, np.full(len(x), 27.0), end)
    line[:, :, np.arange(_SIDE) % 4 < 2] = 0
    return x + line


def _zigzag(x: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Draws a zigzag from the left side to the right: corners 4 pixels apart, 2 pixels above and below its middle."""
    left, right = 2, 25
    top = generator.integers(0, 27, len(x))
    slope = np.arctan(generator.integers(-5, 5, len(x)) / (right - left))
    length = (right - left) / np.cos(slope)
    along = [np.zeros(len(x)), *(np.full(len(x), 4.0 * corner + 2) for corner in range(6)), length]
    across = [0.0, 2.0, -2.0, 2.0, -2.0, 2.0, -2.0, -1 / (length - 20)]
    columns = [left + a * np.cos(slope) - b * np.sin(slope) for a, b in zip(along, across, strict=True)]
    rows = [top + a * np.sin(slope) + b * np.cos(slope) for a, b in zip(along, across, strict=True)]
    for corner in range(1, len(along)):
        x = np.minimum(x + _lines(columns[corner - 1], rows[corner - 1], columns[corner], rows[corner]), 1)
    return x


def _lines(left: FloatArray, top: FloatArray, right: FloatArray, bottom: FloatArray) -> FloatArray:
    """Draws one line in each image, fading over 2.3 rows above and below; float32 `[n, 28, 28]`."""
    left, top, right, bottom = (np.asarray(side, np.float32).reshape(-1, 1, 1) for side in (left, top, right, bottom))
    rows, columns = np.arange(_SIDE, dtype=np.float32).reshape(-1, 1), np.arange(_SIDE, dtype=np.float32)
    distance = np.abs(rows - (top + (bottom - top) / (right - left) * (columns - left)))
    line = np.log1p(-distance.clip(0, 2.299) / 2.3) + 1
    return np.where((columns >= np.floor(left)) & (columns < np.ceil(right)), line.clip(0, 1), 0)


def _blur(x: FloatArray, sigmas: tuple[float, ...]) -> FloatArray:
    return ndimage.gaussian_filter(x, sigmas, mode="nearest")


def _either(x: FloatArray, generator: np.random.Generator, matrix: Callable[[int], list[list[float]]]) -> FloatArray:
    """Warps by `matrix(1)` or `matrix(-1)`, by chance."""
    positive = generator.integers(0, 2, (len(x), 1, 1)) == 1
    return np.where(positive, _warp(x, np.array(matrix(1))), _warp(x, np.array(matrix(-1))))


def _warp(x: FloatArray, matrix: np.ndarray) -> FloatArray:
    """Takes each pixel from `matrix` times its place, x and y from the centre, in between bilinearly."""
    swapped = np.eye(3)
    swapped[1:, 1:] = matrix[::-1, ::-1]  # from x, y to rows, columns
    offset = np.array([0, _CENTRE, _CENTRE])
    return ndimage.affine_transform(x, swapped, offset - swapped @ offset, order=1)


CORRUPTIONS: dict[str, Corruption] = {
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "shear": _shear,
    "scale": _scale,
    "rotate": _rotate,
    "brightness": _brightness,
    "translate": _translate,
    "stripe": _stripe,
    "fog": _fog,
    "spatter": _spatter,
    "dotted line": _dotted_line,
    "zigzag": _zigzag,
    "canny edges": lambda x, generator: canny_edges(x),
}
