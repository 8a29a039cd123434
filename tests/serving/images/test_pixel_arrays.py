"""Arrays of numbers: what can be read in one way only is taken as bytes, everything else is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest

from serving.errors import InvalidImage
from serving.images.pixel_arrays import PixelScale, to_images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Three 28 x 28 gray images with every byte, 0 and 255 among them."""
    values = np.arange(3 * 28 * 28) % 256
    return values.astype(np.uint8).reshape(3, 28, 28, 1)


SCALES = {
    **{name: lambda a, name=name: a.astype(name) for name in ("int16", "uint16", ">i4", "int64", "uint64")},
    **{f"whole {name}": lambda a, name=name: a.astype(name) for name in ("float16", "float32", ">f8", "longdouble")},
    "whole with noise": lambda a: a / np.float32(255) * np.float32(255),
    "unit float64": lambda a: a / 255,
    "unit float32": lambda a: a.astype(np.float32) / np.float32(255),
    "unit float32 times the inverse": lambda a: a.astype(np.float32) * np.float32(1 / 255),
    "unit float16": lambda a: (a / 255).astype(np.float16),
    "unit float32 kept as float64": lambda a: (a.astype(np.float32) / np.float32(255)).astype(np.float64),
    "unit with four decimals": lambda a: np.round(a / 255, 4),
    "almost black": lambda a: a / 255,
}


@pytest.mark.parametrize("name", SCALES)
def test_numbers_that_are_bytes_beyond_doubt_are_taken(name: str, images: np.ndarray) -> None:
    wanted = images % 6 if name == "almost black" else images
    taken = to_images(SCALES[name](wanted))
    assert taken.dtype == np.uint8
    assert np.array_equal(taken, wanted)


def test_bools_are_black_and_white(images: np.ndarray) -> None:
    assert np.array_equal(to_images(images > 99), np.where(images > 99, 255, 0))


def test_blank_images_are_blank_on_every_scale() -> None:
    assert not to_images(np.zeros((2, 28, 28))).any()
    assert not to_images(np.zeros((2, 28, 28), np.int64)).any()


LAYOUTS = {
    "n h w": lambda a: a[..., 0],
    "n 1 h w": lambda a: a.transpose(0, 3, 1, 2),
    "rows of values": lambda a: a.reshape(len(a), -1),
    "Fortran order": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "a list": lambda a: a.tolist(),
}
SINGLES = {
    "h w": lambda a: a[0, :, :, 0],
    "h w 1": lambda a: a[0],
    "1 h w": lambda a: a[0].transpose(2, 0, 1),
    "a row of values": lambda a: a[0].ravel(),
}


@pytest.mark.parametrize("shape", [None, (28, 28, 1)])
def test_layouts_that_are_images_beyond_doubt_are_taken(images: np.ndarray, shape: tuple | None) -> None:
    for name, change in LAYOUTS.items():
        assert np.array_equal(to_images(change(images), shape), images), name
    for name, change in SINGLES.items():
        assert np.array_equal(to_images(change(images), shape), images[:1]), name


def test_colour_comes_first_or_last(images: np.ndarray) -> None:
    colour = np.concatenate([images, images // 2, images // 3], axis=-1)
    assert np.array_equal(to_images(colour.transpose(0, 3, 1, 2)), colour)
    assert np.array_equal(to_images(colour[0]), colour[:1])
    assert np.array_equal(to_images(colour[0].transpose(2, 0, 1), (28, 28, 3)), colour[:1])


def test_the_size_that_is_needed_decides_between_rows_and_one_image() -> None:
    square = np.arange(784 * 784).reshape(784, 784) % 200
    assert to_images(square, (28, 28, 1)).shape == (784, 28, 28, 1)
    assert to_images(square).shape == (1, 784, 784, 1)
    assert to_images(np.zeros((5, 12)), (3, 4, 1)).shape == (5, 3, 4, 1)


def _of(*values: float) -> np.ndarray:
    array = np.zeros((1, 28, 28))
    array.flat[: len(values)] = values
    return array


@pytest.mark.parametrize(
    ("array", "shape", "reason"),
    [
        (_of(1), None, "all values are 0 or 1, and 1 may be white or almost black; save it as bool"),
        (_of(1).astype(np.int64), None, "all values are 0 or 1"),
        (_of(-1, 1), None, "values from -1 to 1, but pixels are .*undo the normalisation"),
        (_of(256), None, "values from 0 to 256"),
        (_of(300).astype(np.int16), None, "values from 0 to 300"),
        (_of(0.5), None, r"0\.5 is not a multiple of 1/255; save the images as bytes"),
        (_of(127.5), None, r"values up to 127\.5, of which 127\.5 is not a whole number; round it"),
        (_of(np.nan), None, r"not numbers \(NaN or infinity\)"),
        (_of(np.inf), None, r"not numbers \(NaN or infinity\)"),
        (np.array([["7"]]), None, "values are <U1, but pixels are numbers"),
        (np.array([[None]]), None, "values are Python objects, but pixels are numbers"),
        (np.zeros((2, 28, 28), complex), None, "values are complex128"),
        (np.zeros(()), None, r"has the dimensions \[\], but images are \[n, height, width\]"),
        (np.zeros((1, 2, 28, 28, 1)), None, r"has the dimensions \[1, 2, 28, 28, 1\]"),
        (np.zeros((5, 28, 28, 4)), None, r"has the dimensions \[5, 28, 28, 4\]"),
        (np.zeros((5, 783)), None, "rows of 783 values, which are no square"),
        (np.zeros((5, 783)), (28, 28, 1), "rows of 783 values, but the model takes images of 28 x 28 x 1"),
        (np.zeros((5, 3072)), (32, 32, 3), "rows of values, whose order of colours would be a guess"),
        (np.zeros((5, 9, 9)), (28, 28, 1), "images of 9 x 9 x 1, but the model takes 28 x 28 x 1"),
    ],
)
def test_what_leaves_a_doubt_is_refused_with_the_reason(array: np.ndarray, shape: tuple | None, reason: str) -> None:
    with pytest.raises(InvalidImage, match=reason):
        to_images(array, shape)


def test_one_scale_holds_for_all_blocks() -> None:
    """The first block alone would be taken for the other scale."""
    blocks = [_of(1.0, 0.0), _of(51 / 255)]
    scale = PixelScale()
    for block in blocks:
        scale.look_at(block)
    assert scale.to_bytes(blocks[0]).max() == 255
    assert scale.to_bytes(_of(1, 0).astype(np.int64)).max() == 255  # as a table gives a block of whole numbers
    scale.look_at(_of(7))
    with pytest.raises(InvalidImage, match=r"values up to 7, of which 0\.2 is not a whole number"):
        scale.to_bytes(blocks[0])


def test_large_arrays_are_read_in_blocks() -> None:
    array = np.zeros((3000, 28, 28), np.float32)
    array[-1] = 0.2
    array[0] = 1
    assert to_images(array).sum(axis=(1, 2, 3)).nonzero()[0].tolist() == [0, 2999]
