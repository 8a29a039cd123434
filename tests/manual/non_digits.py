"""Pictures that show no digit, or more than one, as raw pixels and as files.

None of them takes part in training: letters come from Hershey's stroke fonts, clothes from Fashion-MNIST.
"""

from __future__ import annotations

import gzip
import string
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from real_digits import Pictures, encoded, on_paper, prepared, raw
from scipy import ndimage
from textures import TEXTURES, texture

from serving.images.geometry import bounding_box, centre_by_mass

Generator = np.random.Generator
Strokes = list[np.ndarray]

_PAGE = 160
# What is left out, because many people would read it as a digit. In Greek the fonts have phi at F, theta at Q, beta
# at b, and so on; J and V are no letters there.
_LIKE_DIGITS = {"latin": "BDGIJOQSTYZbgijloqsyz", "greek": "BFIJOQTVZbdfgijoqstvxz"}
_FONTS = {"futural": "latin", "scripts": "latin", "cursive": "latin", "timesr": "latin", "timesi": "latin"}
_FONTS |= {"greek": "greek", "greekc": "greek"}


def non_digits(
    count: int, *, digits: np.ndarray, labels: np.ndarray, fashion_mnist: Path | None = None, seed: int = 0
) -> Iterator[Pictures | str]:
    """Yields pictures of each kind; or, in words, why a kind is left out.

    Args:
        count: Number of pictures of each kind.
        digits: uint8 `[n, 28, 28]`, light on black; pairs and halves are made of them.
        labels: int `[n]`, what they are.
        fashion_mnist: Directory with the files of Fashion-MNIST.
        seed: Of everything that is random.
    """
    kinds: list[Callable[[int, Generator], Iterator[Pictures]]] = [_noise, _blank, _textures]
    for number, kind in enumerate(kinds):
        yield from kind(count, np.random.default_rng([seed, number]))
    if fashion_mnist is None:
        yield "clothes: left out, since Debian's package dataset-fashion-mnist is not there"
    else:
        yield from _clothes(count, np.random.default_rng([seed, 10]), fashion_mnist)
    yield from _pairs(count, np.random.default_rng([seed, 11]), digits)
    try:
        yield from _letters(count, np.random.default_rng([seed, 12]))
    except ModuleNotFoundError as error:
        yield f"letters: left out, since {error.name} is not installed; pip install Hershey-Fonts"
    yield raw("halves (of 2, 3 and 5)", _halves(count, np.random.default_rng([seed, 13]), digits, labels))
    yield from _drawn("scribbles", [_scribble] * count, np.random.default_rng([seed, 14]))
    generator = np.random.default_rng([seed, 15])
    shapes = [_SHAPES[number % len(_SHAPES)] for number in range(count)]
    yield from _drawn(
        "shapes (triangle, house, heart, star, tick, arrow)", [lambda _, s=s: s for s in shapes], generator
    )


def _noise(count: int, generator: Generator) -> Iterator[Pictures]:
    def normal(height: int, width: int) -> np.ndarray:
        noise = generator.normal(generator.uniform(60, 195), generator.uniform(20, 80), (height, width))
        return noise.clip(0, 255).astype(np.uint8)

    yield raw("noise, uniform", generator.integers(0, 256, (count, 28, 28), dtype=np.uint8))
    yield raw("noise, normal", np.stack([normal(28, 28) for _ in range(count)]))
    files = (encoded(normal(*generator.integers(28, 201, 2)), _quality(generator)) for _ in range(count))
    yield prepared("noise, files", files)


def _blank(count: int, generator: Generator) -> Iterator[Pictures]:
    """Blank pages: all of one gray, with the noise of a camera, in uneven light."""

    def page(height: int, width: int) -> np.ndarray:
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        light = 1 + generator.uniform(0, 0.2) * (generator.uniform(-1, 1) * x + generator.uniform(-1, 1) * y)
        gray = generator.choice([0, 255, generator.uniform(0, 255)]) * light
        noise = generator.normal(0, 1, (height, width)) * generator.choice([0, generator.uniform(0, 8)])
        return (gray + noise).clip(0, 255).astype(np.uint8)

    grays = np.resize(np.arange(256, dtype=np.uint8), count)
    yield raw("blank, black", np.zeros((count, 28, 28), np.uint8))
    yield raw("blank, of all grays", np.broadcast_to(grays[:, None, None], (count, 28, 28)).copy())
    yield raw("blank, noisy and uneven", np.stack([page(28, 28) for _ in range(count)]))
    files = (encoded(page(*generator.integers(28, 301, 2)), _quality(generator)) for _ in range(count))
    yield prepared("blank, files", files)


def _textures(count: int, generator: Generator) -> Iterator[Pictures]:
    kinds = list(TEXTURES)
    for name in kinds:
        yield raw(f"textures, {name}", np.stack([texture(name, 28, generator) for _ in range(count // 2)]))
    drawn = (
        texture(kinds[number % len(kinds)], int(generator.integers(48, 257)), generator) for number in range(count)
    )
    yield prepared("textures, files", (encoded(image, _quality(generator)) for image in drawn))


def _clothes(count: int, generator: Generator, directory: Path) -> Iterator[Pictures]:
    with gzip.open(directory / "t10k-images-idx3-ubyte.gz") as file:
        clothes = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    yield raw("clothes", clothes)
    some = clothes[generator.choice(len(clothes), count, replace=False)]
    files = (
        encoded(on_paper(image, generator, dark=bool(generator.integers(2))), _quality(generator)) for image in some
    )
    yield prepared("clothes, files", files)


def _pairs(count: int, generator: Generator, digits: np.ndarray) -> Iterator[Pictures]:
    """Two digits side by side: laid out as MNIST by the plain rule, and as one file for the preparation to judge."""
    for name, touching in (("apart", False), ("touching", True)):
        pairs = [_pair(digits[generator.choice(len(digits), 2)], generator, touching=touching) for _ in range(count)]
        yield raw(f"two digits, {name}", np.stack([centre_by_mass(pair) for pair in pairs]))
        files = (encoded(on_paper(p, generator, dark=bool(generator.integers(2))), _quality(generator)) for p in pairs)
        yield prepared(f"two digits, {name}, files", files)


def _pair(two: np.ndarray, generator: Generator, *, touching: bool) -> np.ndarray:
    """Sets two digits side by side, 3 to 12 pixels apart, or so that their ink meets; uint8 `[h, w]`."""
    left, right = (image[bounding_box(image)] for image in two)
    height = max(len(left), len(right)) + 4
    left, right = (_raised(image, height, generator) for image in (left, right))
    gap = int(generator.integers(3, 13))
    if touching:
        ends = [np.flatnonzero(row > 96).max(initial=-99) for row in left]
        starts = [np.flatnonzero(row > 96).min(initial=99) for row in right]
        between = min(left.shape[1] - 1 - end + start for end, start in zip(ends, starts, strict=True))
        gap = -min(between + int(generator.integers(0, 2)), right.shape[1] // 3, left.shape[1] // 3)
    page = np.zeros((height, left.shape[1] + right.shape[1] + gap), np.uint8)
    page[:, : left.shape[1]] = left
    part = page[:, left.shape[1] + gap :]
    np.maximum(part, right, out=part)
    return page


def _raised(image: np.ndarray, height: int, generator: Generator) -> np.ndarray:
    top = int(generator.integers(0, height - len(image) + 1))
    return np.pad(image, ((top, height - len(image) - top), (0, 0)))


def _letters(count: int, generator: Generator) -> Iterator[Pictures]:
    """Letters that nobody reads as a digit, in stroke fonts: print, script, italic, Greek."""
    from HersheyFonts import HersheyFonts

    glyphs: list[Strokes] = []
    for font, alphabet in _FONTS.items():
        hershey = HersheyFonts()
        hershey.load_default_font(font)
        letters = [letter for letter in string.ascii_letters if letter not in _LIKE_DIGITS[alphabet]]
        drawn = ([np.array(stroke, float) for stroke in hershey.strokes_for_text(letter)] for letter in letters)
        glyphs += [strokes for strokes in drawn if strokes]
    order = generator.integers(len(glyphs), size=count)
    yield from _drawn("letters unlike digits", [lambda _, at=at: glyphs[at] for at in order], generator)


def _halves(count: int, generator: Generator, digits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Upper and lower halves. Those of other digits are often digits: above in a 9 is a 0, below in a 4 a 1."""
    chosen = generator.choice(np.flatnonzero(np.isin(labels, (2, 3, 5))), count)
    halves = []
    for number, image in enumerate(digits[chosen]):
        ink = image[bounding_box(image)]
        middle = len(ink) // 2
        halves.append(centre_by_mass(np.pad(ink[:middle] if number % 2 else ink[middle:], 2)))
    return np.stack(halves)


def _drawn(name: str, figures: list[Callable[[Generator], Strokes]], generator: Generator) -> Iterator[Pictures]:
    """Draws figures by hand, lays them out as MNIST by the plain rule, and sends them as files."""
    pages = [_by_hand(figure(generator), generator) for figure in figures]
    yield raw(name, np.stack([centre_by_mass(page) for page in pages]))
    files = (encoded(on_paper(p, generator, dark=bool(generator.integers(2))), _quality(generator)) for p in pages)
    yield prepared(f"{name}, files", files)


def _by_hand(strokes: Strokes, generator: Generator) -> np.ndarray:
    """Draws strokes slanted, turned and jittered, with a pen of 2 to 10 % of their size; light on black, cut tightly.

    Args:
        strokes: Each float `[points, 2]`, x to the right, y down, of any size.
        generator: Chooses all of that.
    """
    points = np.concatenate(strokes)
    middle, size = (points.min(axis=0) + points.max(axis=0)) / 2, np.ptp(points, axis=0).max()
    turn = np.radians(generator.normal(0, 6))
    form = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    form = form @ np.array([[generator.uniform(0.85, 1.15), -generator.normal(0, 0.15)], [0, 1]]) * (100 / size)
    page = Image.new("L", (_PAGE, _PAGE))
    draw, pen = ImageDraw.Draw(page), generator.uniform(2, 10)
    for stroke in strokes:
        placed = (stroke - middle) @ form.T + _PAGE / 2 + generator.normal(0, 1.2, (1, 2))
        placed = placed + generator.normal(0, 0.6, placed.shape)
        draw.line([tuple(point) for point in placed], fill=255, width=round(pen), joint="curve")
        for x, y in (placed[0], placed[-1]):
            draw.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=255)
    ink = np.asarray(page)
    return np.asarray(Image.fromarray(ink[bounding_box(ink)]))


def _scribble(generator: Generator) -> Strokes:
    """Draws one smooth line that crosses itself many times."""
    corners = generator.uniform(0, 1, (int(generator.integers(9, 16)), 2))
    fine = np.linspace(0, len(corners) - 1, 12 * len(corners))
    return [np.stack([ndimage.map_coordinates(axis, [fine], order=3, mode="nearest") for axis in corners.T], axis=1)]


_HEART = np.linspace(0, 2 * np.pi, 40)
_STAR = np.array([[np.sin(turn), -np.cos(turn)] for turn in np.arange(6) * 0.8 * np.pi])
_SHAPES: list[Strokes] = [
    [np.array(points, float) for points in shape]
    for shape in (
        [[(0, 10), (5, 0), (10, 10), (0, 10)]],
        [[(0, 10), (0, 5), (5, 0), (10, 5), (10, 10), (0, 10)], [(0, 5), (10, 5)]],
        [
            np.stack(
                [
                    16 * np.sin(_HEART) ** 3,
                    -13 * np.cos(_HEART) + 5 * np.cos(2 * _HEART) + 2 * np.cos(3 * _HEART) + np.cos(4 * _HEART),
                ],
                axis=1,
            )
        ],
        [_STAR],
        [[(0, 6), (3, 10), (10, 0)]],
        [[(0, 5), (10, 5)], [(6, 1), (10, 5), (6, 9)]],
    )
]


def _quality(generator: Generator) -> int | None:
    """Chooses PNG, or JPEG of a quality of 60 to 94."""
    return None if generator.integers(2) else int(generator.integers(60, 95))
