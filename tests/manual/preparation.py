"""Measures how well image preparation undoes damage to MNIST's test images; `make preparation` runs it.

Prints a table. For each row it damages the images as scans and photos do, or makes the pictures that people send of
them (tests/helpers/sent_images.py), encodes them as files, prepares them as the server does, and classifies them with
the shipped model. Then come scikit-learn's own digits, and how often several digits and empty pages are noticed.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
import sent_images

from serving.config import PRETRAINED, EngineConfig
from serving.images.image_status import ImageStatus
from serving.images.preparation import Preparation, PreparedImage
from serving.inference.engine import Engine
from serving.repository.repository import Repository
from training.datasets import load

Damage = Callable[[np.ndarray, np.random.Generator], bytes]


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=60)
    return stream.getvalue()


def _enlarged(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Enlarges the image to 40 to 400 pixels, with a random margin of up to half of that on each side."""
    side = int(generator.integers(40, 401))
    how = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[generator.integers(2)]
    top, bottom, left, right = generator.integers(0, side // 2 + 1, 4)
    large = np.asarray(Image.fromarray(image).resize((side, side), how))
    return np.pad(large, ((top, bottom), (left, right)))


def _on_gray(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws the image in black or white on a gray of 96 to 160, with noise of standard deviation 10."""
    background = generator.uniform(96, 160)
    ink = 255.0 * generator.integers(2)
    share = image / 255
    seen = background * (1 - share) + ink * share + generator.normal(0, 10, image.shape)
    return np.clip(np.rint(seen), 0, 255).astype(np.uint8)


def _photo(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws dark ink on paper, in light that falls off by half from a random side, with some noise."""
    share = _enlarged(image, generator) / 255
    paper = 230 * (1 - share) + 40 * share
    angle = generator.uniform(0, 2 * np.pi)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in share.shape), indexing="ij")
    way = y * np.sin(angle) + x * np.cos(angle)
    light = 0.75 + 0.25 * way / np.abs(way).max()
    return np.clip(np.rint(paper * light + generator.normal(0, 3, share.shape)), 0, 255).astype(np.uint8)


def _dusty(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws dark ink on a light page with ten specks of dust, each 1 to 2.5 % of the side."""
    large = _enlarged(image, generator).copy()
    for _ in range(10):
        side = max(1, round(large.shape[0] * generator.uniform(0.01, 0.025)))
        top, left = (int(generator.integers(0, length - side)) for length in large.shape)
        large[top : top + side, left : left + side] = 220
    return 255 - large


DAMAGES: dict[str, Damage] = {
    "as they are, PNG": lambda image, generator: _png(image),
    "inverted": lambda image, generator: _png(255 - image),
    "enlarged, off-centre": lambda image, generator: _png(_enlarged(image, generator)),
    "inverted, enlarged, JPEG quality 60": lambda image, generator: _jpeg(255 - _enlarged(image, generator)),
    "on noisy gray, sigma 10": lambda image, generator: _png(_on_gray(image, generator)),
    "ink at half contrast": lambda image, generator: _png(image // 2),
    "inverted, half contrast": lambda image, generator: _png(255 - image // 2),
    "enlarged, on noisy gray, JPEG": lambda image, generator: _jpeg(_on_gray(_enlarged(image, generator), generator)),
    "photo in uneven light, JPEG": lambda image, generator: _jpeg(_photo(image, generator)),
    "scan with dust": lambda image, generator: _png(_dusty(image, generator)),
}


def _as_sent(kind: sent_images.Kind) -> Damage:
    return lambda image, generator: _png(kind(image, generator))


SENT: dict[str, Damage] = {name: _as_sent(kind) for name, kind in sent_images.DIGITS.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """What became of test images after damage.

    Attributes:
        accuracy: Share of right labels.
        same: Share of labels equal to those of the raw pixels.
        noticed: Share of images in which no ink or several digits were noticed, wrongly.
        prepared: The prepared images, uint8 `[n, 28, 28, 1]`.
    """

    accuracy: float
    same: float
    noticed: float
    prepared: np.ndarray


class Comparison:
    """Compares the shipped model's answers for images before and after damage."""

    def __init__(self, images: np.ndarray, labels: np.ndarray) -> None:
        stored = Repository(PRETRAINED).load("mnist_convnet", 1)
        shape = stored.manifest.input.shape
        self._preparation = Preparation(
            kind=stored.manifest.input.preparation, height=shape[0], width=shape[1], channels=shape[2]
        )
        self._engine = Engine(
            stored.content, image_shape=shape, classes=10, config=EngineConfig(provider="cpu", max_batch_rows=10_000)
        )
        self._engine.start()
        self._images, self._labels = images, labels
        self.raw = self._classify(images[..., np.newaxis])

    def after(self, damage: Damage, seed: int = 0) -> Row:
        """Damages all images, and prepares and classifies them."""
        generator = np.random.default_rng(seed)
        images = [self.prepare(damage(image, generator)) for image in self._images]
        prepared = np.stack([image.pixels for image in images])
        labels = self._classify(prepared)
        return Row(
            accuracy=float((labels == self._labels).mean()),
            same=float((labels == self.raw).mean()),
            noticed=float(np.mean([image.status is not ImageStatus.DIGIT for image in images])),
            prepared=prepared,
        )

    def accuracy(self, files: list[bytes], labels: np.ndarray) -> float:
        """Returns the share of files that are read as these labels."""
        return float((self._classify(np.stack([self.prepare(file).pixels for file in files])) == labels).mean())

    def prepare(self, file: bytes) -> PreparedImage:
        """Decodes and prepares a file as the server does."""
        return self._preparation.decode(file)

    def _classify(self, images: np.ndarray) -> np.ndarray:
        parts = [self._engine.infer(images[i : i + 1000]).probabilities for i in range(0, len(images), 1000)]
        return np.concatenate(parts).argmax(axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist-dir", type=Path, default=os.environ.get("MNIST_DIR"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--only", default="", help="only rows whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data = load("mnist", data_dir=arguments.mnist_dir)
    images, labels = data.test_images[: arguments.images, :, :, 0], data.test_labels[: arguments.images]
    comparison = Comparison(images, labels)
    print("| test images | accuracy | labels as for raw pixels | taken for no ink or several | ms an image |")
    print("|---|---|---|---|---|")
    print(f"| raw pixels | {(comparison.raw == labels).mean():.2%} | | | |")
    for name, damage in {**DAMAGES, **SENT}.items():
        if arguments.only not in name:
            continue
        began = time.perf_counter()
        row = comparison.after(damage, arguments.seed)
        each = (time.perf_counter() - began) / len(images) * 1000
        print(f"| {name} | {row.accuracy:.2%} | {row.same:.2%} | {row.noticed:.2%} | {each:.2f} |", flush=True)
    if not arguments.only:
        _print_others(comparison, images, arguments.seed)


def _print_others(comparison: Comparison, images: np.ndarray, seed: int) -> None:
    """Prints how scikit-learn's digits are read, and what is noticed in pictures of several digits and of none."""
    data, generator = load_digits(), np.random.default_rng(seed)
    small = np.rint(data.images * (255 / 16)).astype(np.uint8)
    print("\n| other pictures | read, or noticed |\n|---|---|")
    enlarged = [_png(sent_images.on_paper(image, generator)) for image in small]
    print(f"| scikit-learn's digits, enlarged on paper | {comparison.accuracy(enlarged, data.target):.2%} |")
    print(
        f"| scikit-learn's digits, 8 x 8 | {comparison.accuracy([_png(image) for image in small], data.target):.2%} |"
    )
    count = min(1000, len(images))
    several, empty = 0, 0
    for _ in range(count):
        chosen = generator.integers(len(images), size=generator.integers(2, 5))
        image = comparison.prepare(_png(sent_images.several([images[one] for one in chosen], generator)))
        several += image.status is ImageStatus.SEVERAL_DIGITS
        empty += comparison.prepare(_png(sent_images.empty(generator))).status is ImageStatus.NO_INK
    print(f"| two to four digits | {several / count:.2%} |\n| no digit: empty pages and frames | {empty / count:.2%} |")


if __name__ == "__main__":
    main()
