"""Pictures of no digit, for a network to learn what it must not read: letters, several digits, textures, shapes, noise.

Each kind is spoiled and prepared as the digits are. Otherwise a network would learn to tell photos from clean pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from serving.images.geometry import bounding_box
from training.corruption import corrupt
from training.lettering import draw_letter
from training.sending import sent, sent_field
from training.styles import CANVAS, enlarge, fit, restyle
from training.synthetic import draw_stroke
from training.textures import blank, noise, silhouette, texture

Uint8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

_SIDE = 28


def draw_non_digits(digits: Uint8Array, count: int, generator: np.random.Generator) -> Uint8Array:
    """Makes pictures of no digit, of all kinds, a fifth of them with corrupted pixels.

    Args:
        digits: uint8 `[n, 28, 28]`: digits of which groups and fragments are made.
        count: Number of pictures.
        generator: Source of all choices.

    Returns:
        uint8 `[count, 28, 28]`: raw fields of pixels, and pictures as they are after preparation.
    """
    kinds = generator.choice(list(KINDS), count, p=list(KINDS.values()))
    drawn = np.empty((count, _SIDE, _SIDE), np.uint8)
    for number, kind in enumerate(kinds):
        drawn[number] = draw_non_digit(kind, digits, generator)
    spoiled = np.flatnonzero(generator.random(count) < 0.2)
    drawn[spoiled] = corrupt(drawn[spoiled], generator)
    return drawn


def draw_non_digit(kind: str, digits: Uint8Array, generator: np.random.Generator) -> Uint8Array:
    """Makes one picture of a kind in `KINDS`, as it is after preparation: uint8 `[28, 28]`."""
    if kind in _FIELDS:
        sends = generator.random() < 0.4
        side = int(np.exp(generator.uniform(*np.log((_SIDE, 200))))) if sends else _SIDE
        field = _FIELDS[kind][1](generator, side)
        return sent_field(field, generator) if sends else np.clip(np.rint(field), 0, 255).astype(np.uint8)
    picture = _FIGURES[kind][1](digits, generator)
    return sent(picture, generator) if generator.random() < 0.5 else fit(picture)


def _one(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    return restyle(enlarge(digits[generator.integers(len(digits))]), generator)


def _several(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """Two to four digits in a row, seldom one over another, apart or touching."""
    count = 2 + int(generator.choice(3, p=(0.75, 0.17, 0.08)))
    style = generator.random() < 0.5
    parts = []
    for _ in range(count):
        picture = _one(digits, generator) if style else enlarge(digits[generator.integers(len(digits))])
        ink = np.asarray(picture)
        part = ink[bounding_box(ink)]
        size = generator.uniform(0.8, 1.1)
        parts.append(np.asarray(Image.fromarray(part).resize([max(1, round(s * size)) for s in part.shape[::-1]])))
    stacked = generator.random() < 0.12
    if stacked:
        parts = [part.T for part in parts]
    gap = generator.uniform(-10, 30)
    height = max(part.shape[0] for part in parts)
    width = int(sum(part.shape[1] for part in parts) + max(0, gap) * count + 8)
    row = np.zeros((height + 9, width), np.uint8)
    left = 4.0
    for part in parts:
        top = int((height + 9 - part.shape[0]) * generator.uniform(0, 1))
        place = row[top : top + part.shape[0], int(max(0, left)) : int(max(0, left)) + part.shape[1]]
        np.maximum(place, part[:, : place.shape[1]], out=place)
        left += part.shape[1] + gap
    return Image.fromarray(row.T.copy() if stacked else row)


def _letter(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    return restyle(draw_letter(generator), generator)


def _word(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """Two letters, or a letter and a digit."""
    second = _one(digits, generator) if generator.random() < 0.3 else _letter(digits, generator)
    parts = [np.asarray(picture) for picture in (_letter(digits, generator), second)]
    parts = [part[bounding_box(part)] for part in parts]
    height = max(part.shape[0] for part in parts)
    padded = [np.pad(part, ((height - part.shape[0], 0), (3, int(generator.integers(3, 30))))) for part in parts]
    return Image.fromarray(np.concatenate(padded, axis=1))


def _overlaid(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """Two different figures on the same place."""
    first, second = (np.asarray(_one(digits, generator)) for _ in range(2))
    shift = generator.integers(-22, 23, 2)
    return Image.fromarray(np.maximum(first, np.roll(second, shift, axis=(0, 1))))


def _scribble(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """A long stroke that changes its direction many times."""
    count = int(generator.integers(8, 24))
    coarse = generator.uniform(0.15, 0.85, (count, 2))
    times = np.linspace(0, count - 1, 12 * count)
    curve = np.stack([np.interp(times, np.arange(count), axis) for axis in coarse.T], axis=1)
    if generator.random() < 0.6:
        kernel = np.ones(13) / 13
        curve = np.stack([np.convolve(axis, kernel, "valid") for axis in curve.T], axis=1)
    return _stroked([curve], generator)


def _symbol(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """A simple drawing: an outline with corners, crossing lines, dots, a wave, a spiral, a star."""
    kind = generator.integers(6)
    turns = np.linspace(0, 2 * np.pi, 60)
    if kind == 0:
        corners = int(generator.integers(3, 9))
        angles = np.sort(generator.uniform(0, 2 * np.pi, corners)) if corners > 4 else turns[:: 60 // corners][:corners]
        radii = generator.uniform(0.2, 0.4, corners)
        outline = np.stack([0.5 + radii * np.cos(angles), 0.5 + radii * np.sin(angles)], axis=1)
        curves = [np.vstack([outline, outline[:1]])]
        if corners <= 4 or generator.random() < 0.5:
            curves.append(generator.uniform(0.2, 0.8, (2, 2)))
    elif kind == 1:
        curves = [generator.uniform(0.1, 0.9, (2, 2)) for _ in range(generator.integers(3, 7))]
    elif kind == 2:
        curves = [np.repeat(generator.uniform(0.15, 0.85, (1, 2)), 2, axis=0) for _ in range(generator.integers(3, 12))]
    elif kind == 3:
        waves = generator.uniform(2, 5)
        y = 0.5 + generator.uniform(0.08, 0.3) * np.sin(waves * turns)
        curves = [np.stack([np.linspace(0.1, 0.9, 60), y], axis=1)]
    elif kind == 4:
        radii = np.linspace(0.05, 0.4, 60)
        curves = [np.stack([0.5 + radii * np.cos(2.7 * turns), 0.5 + radii * np.sin(2.7 * turns)], axis=1)]
    else:
        points = int(generator.integers(4, 8))
        angles = np.linspace(0, 2 * np.pi, 2 * points + 1)
        radii = np.resize([0.4, generator.uniform(0.12, 0.25)], 2 * points + 1)
        curves = [np.stack([0.5 + radii * np.sin(angles), 0.5 - radii * np.cos(angles)], axis=1)]
    return restyle(_stroked(curves, generator), generator)


def _blob(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    """A filled shape, as a shadow or a stain would leave it."""
    return Image.fromarray(np.asarray(silhouette(generator, CANVAS) > 0).astype(np.uint8) * 255)


def _stroked(curves: Sequence[npt.NDArray[np.floating]], generator: np.random.Generator) -> Image.Image:
    canvas = Image.new("L", (CANVAS, CANVAS))
    pencil, width = ImageDraw.Draw(canvas), int(generator.integers(3, 11))
    for curve in curves:
        draw_stroke(pencil, curve * 0.65 * CANVAS + 0.175 * CANVAS, width)
    return canvas


def _drawing(digits: Uint8Array, generator: np.random.Generator) -> Image.Image:
    kinds = (_overlaid, _scribble, _symbol, _blob)
    return kinds[int(generator.integers(len(kinds)))](digits, generator)


# The share of each kind among all pictures of no digit, and what makes one: a figure, light on black, or pixels.
_FIGURES: dict[str, tuple[float, Callable[[Uint8Array, np.random.Generator], Image.Image]]] = {
    "several digits": (0.15, _several),
    "letters": (0.26, _letter),
    "letters in groups": (0.05, _word),
    "drawings": (0.18, _drawing),
}
_FIELDS: dict[str, tuple[float, Callable[[np.random.Generator, int], FloatArray]]] = {
    "noise": (0.05, noise),
    "blank": (0.05, blank),
    "textures": (0.1, texture),
    "filled shapes": (0.16, silhouette),
}
KINDS = {kind: share for kind, (share, _) in [*_FIGURES.items(), *_FIELDS.items()]}
