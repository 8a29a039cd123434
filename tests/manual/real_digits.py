"""Digits of two sources as the files that people send: scikit-learn's 8 x 8 ones, and MNIST's as photos.

`prepared` takes files through the preparation, as the server does.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image
from preparation import DAMAGES

from serving.images.preparation import Preparation

NEAREST, BILINEAR, BICUBIC = (
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)
ENLARGED = "load_digits, enlarged on paper"
PHOTOS = ("inverted, enlarged, JPEG quality 60", "enlarged, on noisy gray, JPEG", "photo in uneven light, JPEG")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """Pictures as the network gets them.

    Attributes:
        name: What they are, for a table.
        pixels: uint8 `[n, 28, 28]`.
        statuses: int `[n]`, what the preparation noticed: an `ImageStatus`; 0 for raw pixels.
        labels: int `[n]`, the digits; None for pictures that show none.
    """

    name: str
    pixels: np.ndarray
    statuses: np.ndarray
    labels: np.ndarray | None = None


def raw(name: str, pixels: np.ndarray, labels: np.ndarray | None = None) -> Pictures:
    """Returns 28 x 28 pixels that nobody prepares."""
    return Pictures(name=name, pixels=pixels, statuses=np.zeros(len(pixels), np.int64), labels=labels)


def prepared(name: str, files: Iterable[bytes], labels: np.ndarray | None = None) -> Pictures:
    """Decodes and prepares image files as the server does for an MNIST model."""
    preparation = Preparation(kind="mnist", height=28, width=28, channels=1)
    images = [preparation.decode(file) for file in files]
    return Pictures(
        name=name,
        pixels=np.stack([image.pixels[..., 0] for image in images]),
        statuses=np.array([int(image.status) for image in images]),
        labels=labels,
    )


def encoded(image: np.ndarray, quality: int | None = None) -> bytes:
    """Encodes uint8 `[h, w]` as PNG, or as JPEG of a quality."""
    stream = io.BytesIO()
    if quality is None:
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
    else:
        Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def on_paper(
    ink: np.ndarray, generator: np.random.Generator, *, how: Image.Resampling = BICUBIC, dark: bool = True
) -> np.ndarray:
    """Enlarges ink to 64 to 300 pixels, with margins of 10 to 60 % of that on each side; uint8.

    Args:
        ink: uint8 `[h, w]`, light on black.
        generator: Chooses size and margins.
        how: How it is enlarged.
        dark: Whether the picture shows dark ink on white; otherwise light on black.
    """
    side = int(generator.integers(64, 301))
    scale = side / max(ink.shape)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    large = np.asarray(Image.fromarray(ink).resize((width, height), how))
    top, bottom, left, right = (round(side * share) for share in generator.uniform(0.1, 0.6, 4))
    page = np.pad(large, ((top, bottom), (left, right)))
    return 255 - page if dark else page


def real_digits(*, seed: int = 0) -> Iterator[Pictures]:
    """Yields scikit-learn's 1,797 digits, of 8 x 8 pixels, as files in several ways.

    Half of each row is dark ink on light paper, the other half light on dark.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target
    fields = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for name, how in (("nearest", NEAREST), ("bilinear", BILINEAR), ("bicubic", BICUBIC)):
        generator = np.random.default_rng([seed, 1])  # the same sizes and margins in each row
        pages = (on_paper(field, generator, how=how, dark=number % 2 == 0) for number, field in enumerate(fields))
        yield prepared(f"{ENLARGED}, {name}", map(encoded, pages), labels)
    tight = [field if number % 2 else 255 - field for number, field in enumerate(fields)]
    yield prepared("load_digits, 8 x 8 as they are", map(encoded, tight), labels)
    large = (np.asarray(Image.fromarray(field).resize((96, 96), BICUBIC)) for field in tight)
    yield prepared("load_digits, filling 96 x 96, JPEG", (encoded(field, 80) for field in large), labels)


def photos(images: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> Iterator[Pictures]:
    """Yields MNIST's test images, uint8 `[n, 28, 28]`, as enlarged JPEG files: inverted, on noisy gray, as photos."""
    for name in PHOTOS:
        generator = np.random.default_rng(seed)
        yield prepared(f"MNIST test, {name}", (DAMAGES[name](image, generator) for image in images), labels)
