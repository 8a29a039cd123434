"""Letters and signs that no digit resembles, in strokes of the pen and in print."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from training.styles import CANVAS
from training.synthetic import smooth

# Control points of strokes, x to the right, y down, from 0 to 1. Letters that some people write like a digit are left
# out: C, D, O, Q; I, J, L, l; Z; Y; S; G, b; B; g, q.
_STROKES: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((0.1, 1.0), (0.3, 0.5), (0.5, 0.0)), ((0.5, 0.0), (0.7, 0.5), (0.9, 1.0)), ((0.25, 0.62), (0.75, 0.6))),  # A
    (((0.2, 0.0), (0.2, 1.0)), ((0.2, 0.0), (0.8, 0.0)), ((0.2, 0.5), (0.7, 0.5)), ((0.2, 1.0), (0.85, 1.0))),  # E
    (((0.2, 0.0), (0.2, 1.0)), ((0.2, 0.02), (0.8, 0.0)), ((0.2, 0.5), (0.7, 0.5))),  # F
    (((0.15, 0.0), (0.15, 1.0)), ((0.85, 0.0), (0.85, 1.0)), ((0.15, 0.5), (0.85, 0.5))),  # H
    (((0.2, 0.0), (0.2, 1.0)), ((0.8, 0.0), (0.2, 0.55)), ((0.35, 0.45), (0.85, 1.0))),  # K
    (((0.1, 1.0), (0.15, 0.0)), ((0.15, 0.0), (0.5, 0.6)), ((0.5, 0.6), (0.85, 0.0)), ((0.85, 0.0), (0.9, 1.0))),  # M
    (((0.15, 1.0), (0.15, 0.0)), ((0.15, 0.0), (0.85, 1.0)), ((0.85, 1.0), (0.85, 0.0))),  # N
    (((0.2, 1.0), (0.2, 0.0)), ((0.2, 0.02), (0.7, 0.05), (0.75, 0.4), (0.2, 0.52))),  # P
    (((0.2, 1.0), (0.2, 0.0)), ((0.2, 0.02), (0.7, 0.05), (0.75, 0.4), (0.2, 0.52)), ((0.35, 0.52), (0.85, 1.0))),  # R
    (((0.1, 0.0), (0.9, 0.0)), ((0.5, 0.0), (0.5, 1.0))),  # T
    (((0.15, 0.0), (0.15, 0.7), (0.5, 1.0), (0.85, 0.7), (0.85, 0.0)),),  # U
    (((0.1, 0.0), (0.5, 1.0)), ((0.5, 1.0), (0.9, 0.0))),  # V
    (
        ((0.05, 0.0), (0.28, 1.0)),
        ((0.28, 1.0), (0.5, 0.35)),
        ((0.5, 0.35), (0.72, 1.0)),
        ((0.72, 1.0), (0.95, 0.0)),
    ),  # W
    (((0.1, 0.0), (0.9, 1.0)), ((0.9, 0.0), (0.1, 1.0))),  # X
    (((0.8, 0.35), (0.4, 0.2), (0.15, 0.6), (0.4, 1.0), (0.8, 0.7)), ((0.8, 0.2), (0.8, 0.8), (0.95, 1.0))),  # a
    (((0.15, 0.55), (0.8, 0.5), (0.5, 0.1), (0.12, 0.5), (0.4, 1.0), (0.85, 0.85)),),  # e
    (((0.85, 0.1), (0.55, 0.0), (0.45, 0.4), (0.45, 1.0)), ((0.15, 0.42), (0.8, 0.4))),  # f
    (((0.2, 0.0), (0.2, 1.0)), ((0.2, 0.6), (0.55, 0.4), (0.8, 0.6), (0.8, 1.0))),  # h
    (((0.15, 0.3), (0.15, 1.0)), ((0.15, 0.5), (0.5, 0.3), (0.8, 0.5), (0.8, 1.0))),  # n
    (
        ((0.08, 0.3), (0.08, 1.0)),
        ((0.08, 0.5), (0.3, 0.3), (0.48, 0.5), (0.48, 1.0)),
        ((0.48, 0.5), (0.7, 0.3), (0.9, 0.5), (0.9, 1.0)),
    ),  # m
    (((0.2, 0.3), (0.2, 1.0)), ((0.2, 0.55), (0.5, 0.3), (0.85, 0.38))),  # r
    (((0.45, 0.0), (0.45, 0.8), (0.6, 1.0), (0.85, 0.9)), ((0.15, 0.32), (0.8, 0.3))),  # t
    (((0.15, 0.3), (0.15, 0.8), (0.45, 1.0), (0.8, 0.75)), ((0.8, 0.3), (0.8, 0.75), (0.95, 1.0))),  # u
    (((0.05, 0.3), (0.1, 0.8), (0.3, 1.0), (0.5, 0.7), (0.7, 1.0), (0.9, 0.75), (0.92, 0.3)),),  # w
    (
        ((0.2, 0.3), (0.15, 0.7), (0.05, 1.3)),
        ((0.18, 0.7), (0.45, 0.95), (0.75, 0.7)),
        ((0.78, 0.3), (0.78, 0.8), (0.95, 0.95)),
    ),
    (((0.15, 0.0), (0.35, 0.05), (0.85, 1.0)), ((0.5, 0.4), (0.1, 1.0))),  # lambda
    (((0.1, 0.2), (0.9, 0.15)), ((0.33, 0.2), (0.28, 1.0)), ((0.68, 0.2), (0.68, 0.85), (0.85, 1.0))),  # pi
    (
        ((0.9, 0.25), (0.55, 0.85), (0.2, 0.9), (0.12, 0.5), (0.35, 0.25), (0.6, 0.5), (0.75, 0.9), (0.95, 0.85)),
    ),  # alpha
    (((0.85, 0.0), (0.1, 0.0)), ((0.1, 0.0), (0.5, 0.5)), ((0.5, 0.5), (0.1, 1.0)), ((0.1, 1.0), (0.9, 1.0))),  # Sigma
    (((0.5, 0.0), (0.05, 1.0)), ((0.05, 1.0), (0.95, 1.0)), ((0.95, 1.0), (0.5, 0.0))),  # Delta
    (((0.5, 0.1), (0.5, 0.9)), ((0.1, 0.5), (0.9, 0.5))),  # plus
    (((0.1, 0.35), (0.9, 0.33)), ((0.1, 0.65), (0.9, 0.67))),  # equals
    (
        ((0.3, 0.0), (0.2, 1.0)),
        ((0.75, 0.0), (0.65, 1.0)),
        ((0.05, 0.33), (0.95, 0.3)),
        ((0.0, 0.68), (0.9, 0.65)),
    ),  # hash
    (((0.1, 0.55), (0.4, 1.0)), ((0.4, 1.0), (0.95, 0.0))),  # check mark
    (((0.5, 0.0), (0.5, 1.0)), ((0.1, 0.25), (0.9, 0.75)), ((0.9, 0.25), (0.1, 0.75))),  # asterisk
    (((0.5, 1.0), (0.05, 0.4), (0.25, 0.05), (0.5, 0.3), (0.75, 0.05), (0.95, 0.4), (0.5, 1.0)),),  # heart
    (((0.05, 0.5), (0.95, 0.5)), ((0.6, 0.2), (0.95, 0.5)), ((0.95, 0.5), (0.6, 0.8))),  # arrow
    (((0.2, 0.2), (0.5, 0.0), (0.75, 0.25), (0.5, 0.5), (0.48, 0.72)), ((0.48, 0.95), (0.48, 1.0))),  # question mark
    (((0.95, 1.0), (0.3, 0.3), (0.45, 0.0), (0.65, 0.2), (0.15, 0.7), (0.4, 1.0), (0.85, 0.55)),),  # ampersand
)
_PRINTED = "AEFHKMNPRTUVWXadefhkmnprtuvwx&@#%$*+=?"
_FONTS = (
    "DejaVuSans*.ttf",
    "DejaVuSerif*.ttf",
    "STIXGeneral*.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
    "cmmi10.ttf",
)


def draw_letter(generator: np.random.Generator) -> Image.Image:
    """Draws a letter or a sign that is unlike any digit, light on a black canvas."""
    if generator.random() < 0.35:
        return draw_print(_PRINTED[generator.integers(len(_PRINTED))], generator)
    strokes = _STROKES[generator.integers(len(_STROKES))]
    canvas = Image.new("L", (CANVAS, CANVAS))
    pencil, pen = ImageDraw.Draw(canvas), int(generator.integers(4, 11))
    width, height = generator.uniform(34, 60), generator.uniform(45, 64)
    for stroke in strokes:
        points = np.array(stroke) + generator.normal(0, 0.03, (len(stroke), 2))
        if len(points) == 2:
            points = np.insert(points, 1, points.mean(axis=0) + generator.normal(0, 0.03, 2), axis=0)
        curve = smooth((points - 0.5) * (width, height)) + CANVAS / 2
        pencil.line([tuple(p) for p in curve.tolist()], fill=255, width=pen, joint="curve")
        for x, y in curve[[0, -1]]:
            pencil.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), fill=255)
    return canvas


def draw_print(character: str, generator: np.random.Generator) -> Image.Image:
    """Prints one character in one of Matplotlib's fonts, light on a black canvas."""
    fonts = _fonts()
    canvas = Image.new("L", (CANVAS, CANVAS))
    font = fonts[int(generator.integers(len(fonts)))]
    ImageDraw.Draw(canvas).text((CANVAS / 2, CANVAS / 2), character, fill=255, font=font, anchor="mm")
    return canvas


@cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    paths = sorted(path for pattern in _FONTS for path in folder.glob(pattern))
    return tuple(ImageFont.truetype(path, 66) for path in paths if "Display" not in path.name)
