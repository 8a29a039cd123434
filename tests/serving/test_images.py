"""Images: files of the right size, MNIST's layout, pictures in a terminal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.errors import InvalidImage
from serving.images import centre_by_mass, load_image, read_image, terminal_picture

GRAY = {"height": 28, "width": 28, "channels": 1}


@pytest.fixture
def ramp() -> np.ndarray:
    return np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "gif"])
def test_lossless_files_give_their_exact_pixels(tmp_path: Path, ramp: np.ndarray, suffix: str) -> None:
    path = tmp_path / f"digit.{suffix}"
    Image.fromarray(ramp).save(path)
    pixels = read_image(path, **GRAY)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, ramp[..., None])


def test_colour_files_become_gray_or_stay_colour_as_the_model_has_it(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (5, 4), (255, 0, 0)).save(path)
    assert read_image(path, height=4, width=5, channels=3)[0, 0].tolist() == [255, 0, 0]
    assert read_image(path, height=4, width=5, channels=1)[0, 0].tolist() == [76]


def test_16_bits_are_scaled_and_not_clipped(tmp_path: Path, ramp: np.ndarray) -> None:
    path = tmp_path / "digit.png"
    Image.fromarray(ramp.astype(np.uint16) * 257).save(path)
    assert np.array_equal(read_image(path, **GRAY)[..., 0], ramp)


def test_transparency_is_seen_on_white(tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    Image.new("RGBA", (5, 4), (0, 0, 0, 0)).save(path)
    assert (load_image(path) == 255).all()


def _text(path: Path) -> str:
    path.write_text("no image")
    return "not an image"


def _empty(path: Path) -> str:
    path.touch()
    return "not an image"


def _absent(path: Path) -> str:
    return "No such file"


def _directory(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


def _large(path: Path) -> str:
    Image.new("L", (40, 30)).save(path)
    return "40 x 30 pixels, but the model takes 28 x 28"


def _bomb(path: Path) -> str:
    Image.new("1", (20_000, 20_000)).save(path)
    return "more pixels than any model takes"


def _truncated(path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    return "damaged"


def _transparent(path: Path) -> str:
    Image.new("RGBA", (28, 28), (255, 255, 255, 0)).save(path)
    return "transparent"


@pytest.mark.parametrize("make", [_transparent, _text, _empty, _absent, _directory, _large, _bomb, _truncated])
def test_an_unusable_file_is_named_with_the_reason(tmp_path: Path, make) -> None:
    path = tmp_path / "digit.png"
    said = make(path)
    with pytest.raises(InvalidImage) as refused:
        read_image(path, **GRAY)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_ink_is_boxed_and_centred_by_mass() -> None:
    ink = np.zeros((100, 200), np.uint8)
    ink[10:90, 150:170] = 255  # a stroke at the right, 80 high and 20 wide
    field = centre_by_mass(ink)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    assert (rows[0], rows[-1]) == (4, 23)
    assert (columns[0], columns[-1]) in {(11, 15), (12, 16)}
    assert field.max() == 255


def test_a_blank_page_stays_blank() -> None:
    assert not centre_by_mass(np.zeros((50, 50), np.uint8)).any()


def test_ink_that_is_heavy_on_one_side_stays_inside() -> None:
    ink = np.zeros((40, 40), np.uint8)
    ink[:, :2] = 255
    ink[20, :] = 10
    field = centre_by_mass(ink)
    assert field.shape == (28, 28)
    assert field[:, 8:].any()


def test_a_picture_shows_the_bright_part() -> None:
    image = np.zeros((6, 6, 1), np.uint8)
    image[1:4, 2] = 200
    image[3, 2:5] = 200
    assert terminal_picture(image) == ["█  ", "▀▀▀"]
    assert terminal_picture(np.zeros((4, 4, 1), np.uint8)) == []
