"""Preparation: unchanged images, digits on pages, and MNIST's test images after typical damage."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from serving.config import SAMPLES
from serving.errors import InvalidImage
from serving.images.image_status import ImageStatus
from serving.images.ink import find_ink
from serving.images.preparation import Preparation
from training.datasets import load

MNIST = Preparation(kind="mnist", height=28, width=28, channels=1)
SEVEN = np.asarray(Image.open(SAMPLES / "7.png").convert("L"))
# The minimum accuracy after each kind of damage.
LEAST = 0.985


def _page(*, side: int = 140, top: int = 30, left: int = 80, height: int = 260, width: int = 340) -> np.ndarray:
    """A seven in light ink on a black page."""
    page = np.zeros((height, width), np.uint8)
    page[top : top + side, left : left + side] = np.asarray(Image.fromarray(SEVEN).resize((side, side)))
    return page


def _prepared(page: np.ndarray) -> np.ndarray:
    return MNIST.prepare(page[..., None]).pixels[..., 0]


def _alike(image: np.ndarray, other: np.ndarray = SEVEN) -> float:
    """Correlation of two pictures: 1 if they differ only in contrast."""
    return float(np.corrcoef(image.ravel(), other.ravel())[0, 1])


def test_images_that_look_like_mnist_stay_unchanged(digits: tuple) -> None:
    for image in digits[0][:200]:
        prepared = MNIST.prepare(image)
        assert np.array_equal(prepared.pixels, image)
        assert prepared.steps == ("left as it is",)


@pytest.mark.parametrize("side", [40, 112, 200])
def test_size_place_and_polarity_make_no_difference(side: int) -> None:
    for page in (_page(side=side), 255 - _page(side=side), 255 - _page(side=side, top=5, left=0)):
        prepared = _prepared(page)
        assert prepared.shape == (28, 28)
        assert _alike(prepared) > 0.9
        assert prepared.max() == 255
        assert prepared[0].max() == 0


def test_paper_in_uneven_light_is_removed() -> None:
    page = 230.0 - _page() * 0.8
    light = np.linspace(0.4, 1.0, page.shape[1]) * np.linspace(0.8, 1.0, page.shape[0])[:, None]
    assert _alike(_prepared((page * light).astype(np.uint8))) > 0.9


def test_dust_and_the_edge_of_the_table_are_not_ink() -> None:
    page = 255 - _page()
    page[200:204, 20:24] = page[10:13, 300:303] = 0
    page[:, -8:] = 30
    assert _alike(_prepared(page)) > 0.9


def test_a_small_digit_on_a_large_page_keeps_its_shape() -> None:
    page = 255 - _page(side=60, top=900, left=150, height=1200, width=1600)
    prepared = MNIST.prepare(page[..., None])
    assert _alike(prepared.pixels[..., 0]) > 0.9
    assert any(step.startswith("cut out") for step in prepared.steps)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("noise", [0, 5])
def test_an_empty_page_stays_empty(level: int, noise: int) -> None:
    page = level + np.random.default_rng(1).normal(0, noise, (200, 150))
    prepared = MNIST.prepare(np.clip(page, 0, 255).astype(np.uint8)[..., None])
    assert not prepared.pixels.any()
    assert prepared.steps[-1] == "found no ink"
    assert prepared.status is ImageStatus.NO_INK


def test_ink_is_found_whether_it_is_darker_or_lighter_than_paper() -> None:
    for page, dark in ((_page(), False), (255 - _page(), True)):
        ink = find_ink(page)
        assert ink.dark == dark
        assert ink.pixels.shape == page.shape
        assert _alike(ink.pixels, _page()) > 0.99


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3), (39, 41), (5, 20_000)])
def test_unusual_sizes_give_a_field_of_the_right_size(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(2)
    for page in (np.full(shape, 7), generator.integers(0, 256, shape)):
        assert _prepared(page.astype(np.uint8)).shape == (28, 28)


def test_colour_networks_get_plain_resizing() -> None:
    preparation = Preparation(kind="resize", height=32, width=48, channels=3)
    red = Image.new("RGB", (300, 200), (200, 10, 20))
    stream = io.BytesIO()
    red.save(stream, "PNG")
    image = preparation.decode(stream.getvalue())
    assert image.pixels.shape == (32, 48, 3)
    assert (image.pixels == (200, 10, 20)).all()
    assert (image.height, image.width) == (200, 300)
    assert image.steps == ("resized to 48 x 32",)
    same = np.random.default_rng(3).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    assert np.array_equal(preparation.prepare(same).pixels, same)


def test_more_pixels_than_allowed_are_refused() -> None:
    preparation = Preparation(kind="mnist", height=28, width=28, channels=1, max_pixels=784)
    stream = io.BytesIO()
    Image.new("L", (28, 29)).save(stream, "PNG")
    with pytest.raises(InvalidImage, match="28 x 29 pixels are more than 784"):
        preparation.decode(stream.getvalue())


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The module that `make preparation` runs."""
    path = Path(__file__).parents[2] / "manual" / "preparation.py"
    spec = importlib.util.spec_from_file_location("preparation_table", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["preparation_table"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def comparison(mnist_dir: Path, table: ModuleType):
    """A thousand of MNIST's test images, including the harder ones. `make preparation` takes all images."""
    data = load("mnist", data_dir=mnist_dir)
    return table.Comparison(data.test_images[:1000, :, :, 0], data.test_labels[:1000])


@pytest.mark.mnist
def test_files_of_mnist_images_get_the_same_labels_as_their_pixels(table: ModuleType, comparison) -> None:
    assert comparison.after(table.DAMAGES["as they are, PNG"]).same >= 0.999


@pytest.mark.mnist
@pytest.mark.parametrize(
    "name",
    [
        "inverted",
        "enlarged, off-centre",
        "inverted, enlarged, JPEG quality 60",
        "on noisy gray, sigma 10",
        "ink at half contrast",
    ],
)
def test_damaged_mnist_images_keep_their_accuracy(table: ModuleType, comparison, name: str) -> None:
    row = comparison.after(table.DAMAGES[name])
    assert row.accuracy >= LEAST
    assert row.noticed <= 0.003
    assert row.prepared.shape == (1000, 28, 28, 1)
