"""Finds the paper in a picture: its brightness, its noise, and whether ink is darker or lighter than it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.images.cells import cell_centres, cell_means
from serving.images.lines import without_lines
from serving.images.strokes import connected

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

# Light may be uneven in images whose smaller side has at least this many pixels. Smaller ones show too little paper.
_UNEVEN_SIDE = 40
# Light is uneven if the brightness of the paper has at least this standard deviation.
_UNEVEN = 1.5
# Maximum sides of the grids for the light and for the shapes of dark and light areas, in cells.
_LIGHT_CELLS, _SHAPE_CELLS = 24, 64
# Two gray levels are ink and paper if they are this many standard deviations of the paper's noise apart. The halves of
# nothing but noise are 2.3 apart.
_APART = 4.0
# Gray levels that are so far apart are not both noise.
_CLEAR = 48.0
# How much corners and pieces tell about which gray level is paper, compared to the whole area, and below which sum the
# pieces are asked. Fitted to MNIST's digits in the pictures of tests/helpers/sent_images.py.
_CORNERS, _PIECES, _UNCLEAR = 0.45, 0.46, 0.2
# A picture that is this many times as high as it is wide is that of a one, and may have more ink than paper.
_NARROW = 1.8
# A median of more values than this is taken of a sample of about this size.
_SAMPLE = 20_000
# The standard deviation of a normal distribution is its median absolute deviation times this.
_DEVIATIONS = 1.4826


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrast:
    """How much each pixel stands out from its paper.

    Attributes:
        values: float32 `[h, w]`, gray levels: positive where a pixel differs as ink does, around 0 for paper.
        noise: Standard deviation of the noise, in gray levels.
        dark: Whether the ink is darker than its paper.
    """

    values: FloatArray
    noise: float
    dark: bool


@dataclass(frozen=True, kw_only=True)
class Levels:
    """Two gray levels that most pixels of a picture are near to.

    Attributes:
        threshold: Pixels up to this gray level are dark.
        medians: Medians of the dark and of the light pixels.
        deviations: Standard deviations of the noise of both.
    """

    threshold: int
    medians: tuple[float, float]
    deviations: tuple[float, float]

    @property
    def contrast(self) -> float:
        """Difference of the two, in gray levels."""
        return self.medians[1] - self.medians[0]


def find_contrast(gray: Uint8Array, floor: float) -> Contrast:
    """Compares each pixel with its paper, also where ink or a printed line covers most of the rim.

    Args:
        gray: uint8 `[h, w]`.
        floor: Ink differs from its paper by at least this many gray levels.
    """
    levels = find_levels(gray)
    values = gray.astype(np.float32)
    dark_ink = _is_ink_dark(gray <= levels.threshold)
    deviation = levels.deviations[dark_ink]
    clear = levels.contrast >= max(floor, _APART * deviation)
    if deviation and min(gray.shape) >= _UNEVEN_SIDE:
        paper = ((levels.threshold + 1, 255), (0, levels.threshold))[not dark_ink] if clear else (0, 255)
        if (light := _lighting(values, *paper)) is not None:
            difference = values - light
            return _signed(difference, _deviation(difference), floor)
    if not clear:
        histogram = np.bincount(gray.ravel(), minlength=256)
        median, deviation, _ = _spread(histogram, 0)
        return _signed(values - np.float32(median), deviation, floor)
    difference = values - np.float32(levels.medians[dark_ink])
    return Contrast(values=-difference if dark_ink else difference, noise=deviation, dark=bool(dark_ink))


def find_levels(gray: Uint8Array) -> Levels:
    """Splits gray levels in two (Otsu, "A threshold selection method from gray-level histograms", 1979)."""
    histogram = np.bincount(gray.ravel(), minlength=256)
    count = np.cumsum(histogram)[:-1].astype(np.float64)
    total = np.cumsum(histogram * np.arange(256))
    both = count * (gray.size - count)
    variance = (total[-1] * count - total[:-1] * gray.size) ** 2 / np.maximum(both, 1)
    best = np.flatnonzero(variance >= variance.max() * (1 - 1e-9))
    threshold = int(best[len(best) // 2])
    parts = [(histogram[: threshold + 1], 0), (histogram[threshold + 1 :], threshold + 1)]
    dark, light = (_spread(part, first) if part.any() else _spread(histogram, 0) for part, first in parts)
    contrast = light[0] - dark[0]
    deviations = (dark[1], light[1])
    if contrast >= _CLEAR:  # noise is never so strong: what differs most from the paper are blurred edges
        deviations = (dark[2], light[2])
        if min(gray.shape) < _UNEVEN_SIDE:
            deviations = (min(dark[2], contrast / 8), min(light[2], contrast / 8))
    return Levels(threshold=threshold, medians=(dark[0], light[0]), deviations=deviations)


def _spread(histogram: npt.NDArray[np.int64], first: int) -> tuple[float, float, float]:
    """Returns the median of values in a histogram that starts at `first`, and two estimates of their noise.

    Both are standard deviations. The first is also right if half of the noise is cut off, as on black or white paper.
    The second ignores up to half of the values.
    """
    cumulated = np.cumsum(histogram)
    low, median, high = np.searchsorted(cumulated, cumulated[-1] * np.array([0.25, 0.5, 0.75])).tolist()
    away = np.bincount(np.abs(np.arange(len(histogram)) - median), histogram)
    middle = int(np.searchsorted(np.cumsum(away), cumulated[-1] / 2))
    return float(first + median), _DEVIATIONS * max(median - low, high - median), _DEVIATIONS * middle


def _is_ink_dark(dark: Mask) -> bool:
    """Returns whether the dark pixels are the ink: they are fewer, and fewer of them lie in corners."""
    narrow = dark.shape[0] >= _NARROW * dark.shape[1]
    side = max(1, round(min(dark.shape) * 0.04))
    corners = np.mean(
        [part.mean() for rows in (dark[:side], dark[-side:]) for part in (rows[:, :side], rows[:, -side:])]
    )
    area = dark.mean() - 0.5
    votes = _CORNERS * (corners - 0.5) + (0 if narrow else area)
    if abs(votes) < _UNCLEAR or (narrow and votes * area < 0):
        (dark_rest, dark_lines), (light_rest, light_lines) = without_lines(dark), without_lines(~dark)
        if dark_lines or light_lines:  # without its frame, a digit is small
            return bool(dark_rest.mean() < light_rest.mean())
        # A digit is mostly one piece, and cuts its paper into several.
        votes += _PIECES * (_largest_share(~dark) - _largest_share(dark))
    return bool(votes < 0)


def _largest_share(mask: Mask) -> float:
    """Returns how much of a mask is in its largest connected part, from 0 to 1."""
    coarse = cell_means(mask.astype(np.float32), _SHAPE_CELLS)
    thin = coarse.mean() < 0.25  # fills no cell
    masses = connected(coarse > (0 if thin else 0.5)).masses(coarse)[1:]
    return float(masses.max() / masses.sum()) if masses.size else 0.0


def _signed(difference: FloatArray, noise: float, floor: float) -> Contrast:
    """Takes for ink what stands out more from the noise: what is darker, or what is lighter."""
    floor = max(floor, 3 * noise)
    lighter = float(np.maximum(difference - floor, 0).sum(dtype=np.float64))
    darker = float(np.maximum(-difference - floor, 0).sum(dtype=np.float64))
    return Contrast(values=-difference if darker > lighter else difference, noise=noise, dark=darker > lighter)


def _deviation(differences: npt.NDArray[np.floating]) -> float:
    """Returns the standard deviation of the noise, given values that are mostly noise."""
    flat = differences.ravel()
    return _DEVIATIONS * float(np.median(np.abs(flat[:: 1 + flat.size // _SAMPLE])))


def _lighting(values: FloatArray, darkest: int, lightest: int) -> FloatArray | None:
    """Fits a quadratic surface to the paper, float32 `[h, w]`; None if one gray level fits it about as well.

    The fit uses the means of a grid's cells and iterated least squares with Tukey's biweight (Beaton and Tukey, 1974),
    which ignores cells with ink, because they are outliers.

    Args:
        values: float32 `[h, w]`.
        darkest: Cells from this gray level on tell whether one level fits.
        lightest: Cells up to this gray level do.
    """
    cells = cell_means(values, _LIGHT_CELLS)
    y, x = cell_centres(cells.shape)
    terms = np.stack([term.ravel() for term in np.broadcast_arrays(y**0 * x**0, y, x, y * y, x * y, x * x)], axis=1)
    target = cells.ravel()
    weights = np.ones_like(target)
    for turn in range(8):
        weighted = terms * weights[:, None]
        solved = np.linalg.lstsq(weighted.T @ weighted, weighted.T @ (target * weights), rcond=None)[0]
        rest = np.abs(target - terms @ solved)
        scale = max(1.0, _deviation(rest))
        # Start with least absolute deviations, because Tukey's weights need a good first estimate.
        weights = 1 / np.sqrt(np.maximum(rest, 1.0)) if turn < 4 else np.maximum(0, 1 - (rest / (4 * scale)) ** 2)
    judged = (target >= darkest) & (target <= lightest)
    flat = _deviation(target[judged] - np.median(target[judged])) if judged.any() else 0.0
    if flat < _UNEVEN or _deviation(rest[judged]) >= 0.7 * flat:
        return None
    one, *others = solved.astype(np.float32)
    y, x = cell_centres(values.shape)
    surface: FloatArray = (
        (one + others[0] * y + others[2] * y * y) + (others[1] * x + others[4] * x * x) + others[3] * x * y
    )
    return surface
