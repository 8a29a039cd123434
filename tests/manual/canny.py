"""Edges of whole arrays of images: J. Canny, "A Computational Approach to Edge Detection", 1986."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def canny_edges(x: np.ndarray) -> np.ndarray:
    """Leaves only edges, blurred by 1 pixel before, with thresholds of 0.1 and 0.2.

    Args:
        x: float32 `[n, h, w]` from 0 to 1.

    Returns:
        float32 of the same shape: 1 on edges, 0 elsewhere.
    """
    inside = ndimage.gaussian_filter(np.ones(x.shape[1:], np.float32), 1, mode="constant")
    smooth = ndimage.gaussian_filter(x, (0, 1, 1), mode="constant") / inside
    down, right = _slope(smooth, along=1, across=2), _slope(smooth, along=2, across=1)
    strength = np.hypot(down, right)
    strength[:, [0, -1], :] = 0
    strength[:, :, [0, -1]] = 0
    edges = _thinned(strength, down, right)
    beside = np.zeros((3, 3, 3), bool)
    beside[1] = True
    parts, count = ndimage.label(edges & (strength >= 0.1), beside)
    strong = np.zeros(count + 1, bool)
    strong[parts[edges & (strength >= 0.2)]] = True
    strong[0] = False
    return strong[parts].astype(np.float32)


def _slope(x: np.ndarray, *, along: int, across: int) -> np.ndarray:
    """Sobel's estimate of the slope of each image; `ndimage.sobel` would also blur across images."""
    return ndimage.correlate1d(ndimage.correlate1d(x, [-1, 0, 1], along), [1, 2, 1], across)


def _thinned(strength: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns where the strength is no less than on both sides, along the gradient, one pixel away; bool."""
    _, row, column = np.ogrid[: len(strength), : strength.shape[1], : strength.shape[2]]
    scale = np.maximum(np.maximum(np.abs(down), np.abs(right)), 1e-12)
    places = [np.broadcast_to(np.arange(len(strength)).reshape(-1, 1, 1), strength.shape)]
    highest = strength > 0
    for sign in (1, -1):
        at = [*places, row + sign * down / scale, column + sign * right / scale]
        highest &= strength >= ndimage.map_coordinates(strength, at, order=1, mode="nearest") - 1e-6
    return highest
