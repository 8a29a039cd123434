"""Styles of handwriting: one digit as other hands and other pens would have written it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from serving.images.geometry import bounding_box, centre_by_mass
from training.synthetic import draw_stroke

Uint8Array = npt.NDArray[np.uint8]

# Strokes are changed in an enlarged picture: a pixel there is a third of one in MNIST.
ENLARGED = 3
CANVAS = 132
# Bounds of shear and rotation in degrees, and of the relation of width and height.
_SHEAR_DEG, _ROTATION_DEG, _ASPECT = 25.0, 12.0, (0.72, 1.35)
# A thinned stroke keeps at least this share of its ink; otherwise it would break.
_LEAST_INK = 0.22


def enlarge(image: Uint8Array) -> Image.Image:
    """Returns a digit, uint8 `[28, 28]`, in the middle of a black canvas, three times as large."""
    side = ENLARGED * len(image)
    large = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(large, ((CANVAS - side) // 2, (CANVAS - side) // 2))
    return canvas


def restyle(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Slants, turns, stretches and bends a figure on its canvas, and draws it with a thinner or a thicker pen."""
    return repen(bend(_transformed(picture, generator), generator), generator)


def fit(picture: Image.Image | Uint8Array) -> Uint8Array:
    """Lays a figure out as MNIST does, with full contrast: uint8 `[28, 28]`."""
    field = centre_by_mass(np.asarray(picture))
    if not field.any():
        return field
    return np.asarray(np.minimum(255, field * (255 / field.max())), np.uint8)


def add_strokes(picture: Image.Image, digit: int, generator: np.random.Generator) -> Image.Image:
    """Adds what some people write: a flag or a foot to a 1, a bar to a 7, a curled tail to a 9.

    Other digits stay as they are, and so do those that leave no place for it.
    """
    ink = np.asarray(picture) > 100
    rows = np.flatnonzero(ink.any(axis=1))
    # Strokes that break or run flat have no place for them.
    if digit not in (1, 7, 9) or len(rows) < 30 or len(rows) <= rows[-1] - rows[0]:
        return picture
    top, bottom = int(rows[0]), int(rows[-1])
    height = bottom - top
    width = max(4, int(np.median(ink[rows].sum(axis=1))))
    changed = picture.copy()
    pencil = ImageDraw.Draw(changed)

    def line(*points: tuple[float, float]) -> None:
        draw_stroke(pencil, np.array(points), width)

    def middle(row: int) -> float:
        return float(np.flatnonzero(ink[row]).mean())

    if digit == 7:
        row = top + int(height * generator.uniform(0.4, 0.65))
        x, half, tilt = middle(row), height * generator.uniform(0.15, 0.32), height * generator.uniform(-0.1, 0.06)
        line((x - half, row - tilt / 2), (x + half, row + tilt / 2))
        return changed
    if digit == 9:
        x, y = middle(bottom - width // 2), bottom - width / 2
        reach, rise = height * generator.uniform(0.25, 0.6), height * generator.uniform(-0.05, 0.2)
        line((x, y), (x - 0.35 * reach, y + 0.12 * reach), (x - 0.75 * reach, y - 0.3 * rise), (x - reach, y - rise))
        return changed
    if ink.any(axis=0).sum() > 0.4 * height:  # it has a flag or a foot already, or a strong slant
        return picture
    kind = generator.integers(3)
    if kind < 2:
        x, y = middle(top + width // 2), top + width / 2
        line((x, y), (x - height * generator.uniform(0.15, 0.5), y + height * generator.uniform(0.12, 0.5)))
    if kind > 0:
        x, y = middle(bottom - width // 2), bottom - width / 2
        line(*((x + side * height * generator.uniform(0.15, 0.38), y) for side in (-1, 1)))
    return changed


def repen(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Draws a figure with a thinner or a thicker pen: by up to two pixels of the canvas on each side."""
    size = 2 * int(generator.integers(0, 3)) + 1
    if size == 1:
        return picture
    if generator.random() < 0.45:
        return picture.filter(ImageFilter.MaxFilter(size))
    least = _LEAST_INK * float(np.asarray(picture).sum())
    while size > 1:
        thin = picture.filter(ImageFilter.MinFilter(size))
        if float(np.asarray(thin).sum()) >= least:
            return thin
        size -= 2
    return picture


def bend(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Moves a figure's parts a little, each in another direction, as an elastic cloth would.

    Source: Patrice Simard, Dave Steinkraus and John Platt, "Best Practices for Convolutional Neural Networks Applied to
    Visual Document Analysis", 2003; here on a coarse grid of points, between which the displacement is interpolated.
    """
    cells = 4
    step = CANVAS // cells
    moved = np.arange(cells + 1) * step
    y, x = np.meshgrid(moved, moved, indexing="ij")
    points = np.stack([x, y], axis=-1) + generator.normal(0, CANVAS * 0.018, (cells + 1, cells + 1, 2))
    mesh = []
    for row in range(cells):
        for column in range(cells):
            box = (column * step, row * step, (column + 1) * step, (row + 1) * step)
            corners = (
                points[row, column],
                points[row + 1, column],
                points[row + 1, column + 1],
                points[row, column + 1],
            )
            mesh.append((box, tuple(float(value) for corner in corners for value in corner)))
    return picture.transform((CANVAS, CANVAS), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)


def _transformed(picture: Image.Image, generator: np.random.Generator) -> Image.Image:
    shear = np.tan(np.radians(np.clip(generator.normal(0, _SHEAR_DEG / 2), -_SHEAR_DEG, _SHEAR_DEG)))
    angle = np.radians(generator.uniform(-_ROTATION_DEG, _ROTATION_DEG))
    aspect = np.sqrt(np.exp(generator.uniform(*np.log(_ASPECT))))
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[aspect, shear * aspect], [0, 1 / aspect]])
    rows, columns = bounding_box(np.asarray(picture))
    if rows.stop == 0:
        return picture
    corners = np.array([[columns.start, rows.start], [columns.stop, rows.stop]]) - CANVAS / 2
    reach = np.abs(corners).max(axis=0)
    reach = np.abs(matrix) @ reach
    matrix *= min(1.0, 0.48 * CANVAS / float(reach.max()))  # it stays on the canvas
    back = np.linalg.inv(matrix)
    offset = CANVAS / 2 - back @ np.full(2, CANVAS / 2)
    data = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    return picture.transform(
        (CANVAS, CANVAS), Image.Transform.AFFINE, tuple(float(v) for v in data), Image.Resampling.BILINEAR
    )
