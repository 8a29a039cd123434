"""Digits drawn by the project, so that training, export and serving can run without a data set.

Each digit is a few strokes through control points. A seeded generator shifts the points and slants, turns and stretches
the figure. The strokes are drawn large, then scaled and centred as in MNIST.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from serving.images.decoding import Uint8Array
from serving.images.geometry import centre_by_mass

_CANVAS = 96
_FloatArray = npt.NDArray[np.float64]
_Strokes = list[list[tuple[float, float]]]

# The ways in which people write each digit: control points of strokes, x to the right, y down, from 0 to 1.
_SHAPES: dict[int, list[_Strokes]] = {
    0: [[[(0.55, 0.0), (0.15, 0.2), (0.1, 0.7), (0.45, 1.0), (0.85, 0.75), (0.85, 0.25), (0.55, 0.0), (0.4, 0.05)]]],
    1: [
        [[(0.5, 0.0), (0.5, 0.5), (0.5, 1.0)]],
        [[(0.3, 0.2), (0.52, 0.0), (0.52, 0.5), (0.52, 1.0)]],
    ],
    2: [
        [[(0.15, 0.25), (0.45, 0.0), (0.8, 0.25), (0.55, 0.6), (0.1, 1.0), (0.5, 0.97), (0.9, 1.0)]],
        [[(0.15, 0.2), (0.5, 0.0), (0.8, 0.3), (0.45, 0.75), (0.15, 0.95), (0.2, 0.75), (0.5, 0.9), (0.95, 0.95)]],
    ],
    3: [
        [[(0.15, 0.1), (0.6, 0.0), (0.75, 0.25), (0.35, 0.45)], [(0.35, 0.45), (0.8, 0.6), (0.7, 0.95), (0.1, 0.95)]],
    ],
    4: [
        [[(0.3, 0.0), (0.1, 0.55), (0.5, 0.58), (0.9, 0.52)], [(0.72, 0.05), (0.7, 0.5), (0.66, 1.0)]],
        [[(0.65, 0.0), (0.35, 0.3), (0.05, 0.65), (0.5, 0.66), (0.95, 0.64)], [(0.65, 0.0), (0.65, 0.5), (0.65, 1.0)]],
    ],
    5: [
        [
            [(0.85, 0.0), (0.55, 0.02), (0.25, 0.04)],
            [(0.25, 0.04), (0.2, 0.42)],
            [(0.2, 0.42), (0.6, 0.38), (0.82, 0.68), (0.55, 0.98), (0.1, 0.92)],
        ],
    ],
    6: [
        [[(0.7, 0.0), (0.35, 0.3), (0.15, 0.7), (0.4, 1.0), (0.75, 0.8), (0.55, 0.55), (0.2, 0.72)]],
    ],
    7: [
        [[(0.1, 0.05), (0.5, 0.05), (0.9, 0.03)], [(0.9, 0.03), (0.6, 0.5), (0.4, 1.0)]],
        [[(0.1, 0.05), (0.9, 0.03)], [(0.9, 0.03), (0.6, 0.5), (0.4, 1.0)], [(0.3, 0.5), (0.85, 0.48)]],
    ],
    8: [
        [
            [
                (0.75, 0.15),
                (0.45, 0.0),
                (0.25, 0.22),
                (0.5, 0.45),
                (0.78, 0.75),
                (0.48, 1.0),
                (0.2, 0.78),
                (0.48, 0.48),
                (0.76, 0.2),
                (0.6, 0.05),
            ]
        ],
    ],
    9: [
        [[(0.78, 0.25), (0.45, 0.0), (0.2, 0.3), (0.5, 0.52), (0.78, 0.2)], [(0.78, 0.2), (0.74, 0.6), (0.6, 1.0)]],
        [[(0.75, 0.15), (0.4, 0.02), (0.22, 0.35), (0.55, 0.48), (0.76, 0.15), (0.78, 0.7), (0.5, 1.0), (0.2, 0.9)]],
    ],
}


def draw_digit(digit: int, generator: np.random.Generator) -> Uint8Array:
    """Draws one digit with random variation.

    Args:
        digit: 0 to 9.
        generator: Source of the variation; the same state gives the same digit.

    Returns:
        uint8 `[28, 28]`, light ink on black.
    """
    shapes = _SHAPES[digit]
    strokes = shapes[generator.integers(len(shapes))]
    slant, angle = generator.normal(0.15, 0.15), generator.normal(0, 0.08)
    width, height = generator.uniform(0.45, 0.85), generator.uniform(0.85, 1.0)
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[width, -slant], [0.0, height]])
    pen = generator.uniform(0.07, 0.15) * _CANVAS
    canvas = Image.new("L", (2 * _CANVAS, 2 * _CANVAS))
    pencil = ImageDraw.Draw(canvas)
    for stroke in strokes:
        points = np.array(stroke) + generator.normal(0, 0.025, (len(stroke), 2))
        curve = smooth((points - 0.5) @ matrix.T) * _CANVAS + _CANVAS
        draw_stroke(pencil, curve, pen)
    return centre_by_mass(np.asarray(canvas, dtype=np.uint8))


def draw_stroke(pencil: ImageDraw.ImageDraw, curve: npt.NDArray[np.floating], pen: float) -> None:
    """Draws one stroke with a round pen.

    Args:
        pencil: Draws on a gray canvas.
        curve: float `[n, 2]`, x and y of its points, in pixels.
        pen: Width of the pen, in pixels.
    """
    pencil.line([tuple(point) for point in curve.tolist()], fill=255, width=round(pen), joint="curve")
    for x, y in curve[[0, -1]]:
        pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)


def draw_digits(count: int, *, seed: int) -> tuple[Uint8Array, npt.NDArray[np.int64]]:
    """Draws a data set: every digit equally often, in random order.

    Args:
        count: Number of images.
        seed: The same seed and the same release of Pillow give the same images.

    Returns:
        Images, uint8 `[count, 28, 28, 1]`, and labels, int64 `[count]`.
    """
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.arange(count, dtype=np.int64) % 10)
    images = [draw_digit(int(label), generator) for label in labels]
    return np.stack(images)[..., np.newaxis], labels


def smooth(points: _FloatArray, steps: int = 8) -> _FloatArray:
    """Interpolates a Catmull-Rom spline (Catmull and Rom, 1974), with `steps` points between neighbouring points."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    before, start, end, after = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return np.vstack([curve.reshape(-1, 2), points[-1:]])
