"""Image files to arrays, MNIST's layout, and pictures in a terminal."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from serving.commands.pictures import terminal_picture
from serving.errors import InvalidImage
from serving.images.decoding import decode_image, load_image
from serving.images.geometry import centre_by_mass

pillow_heif.register_heif_opener()  # so that tests can save HEIC


@pytest.fixture
def ramp() -> np.ndarray:
    return np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)


def _file(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    if form == "HEIF":
        options |= {"quality": -1, "chroma": 444}  # lossless
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF"])
def test_lossless_files_give_their_exact_pixels(ramp: np.ndarray, form: str) -> None:
    pixels = decode_image(_file(Image.fromarray(ramp), form), channels=1).pixels
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, ramp[..., None])


def test_colour_files_become_gray_or_stay_colour_as_the_model_has_it() -> None:
    red = _file(Image.new("RGB", (5, 4), (255, 0, 0)))
    assert decode_image(red).pixels[0, 0].tolist() == [255, 0, 0]
    assert decode_image(red, channels=1).pixels[0, 0].tolist() == [76]
    gray = _file(Image.new("L", (5, 4), 7))
    assert decode_image(gray).pixels.shape == (4, 5, 1)
    assert decode_image(gray, channels=3).pixels[0, 0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_and_not_clipped(ramp: np.ndarray, form: str) -> None:
    content = _file(Image.fromarray(ramp.astype(np.uint16) * 257), form)
    assert np.array_equal(decode_image(content).pixels[..., 0], ramp)


def _ink(side: int = 60) -> np.ndarray:
    """How opaque a stroke with soft edges is; uint8 `[side, side]`."""
    distance = np.abs(np.arange(side) - side / 2)
    return np.tile((255 * (4 - distance).clip(0, 1)).astype(np.uint8), (side, 1))


def _drawn(colour: tuple[int, int, int], alpha: np.ndarray) -> Image.Image:
    """One colour, as opaque as `alpha` says; what is fully transparent is black, as canvases have it."""
    pixels = np.dstack([np.broadcast_to(colour, (*alpha.shape, 3)), alpha]).astype(np.uint8)
    pixels[alpha == 0] = 0
    return Image.fromarray(pixels)


def _shadowed(ink: int, shadow: int) -> Image.Image:
    """Ink on a wide half-transparent shadow of another gray."""
    alpha = np.zeros((60, 60), np.uint8)
    alpha[5:55, 10:50] = 120
    return Image.alpha_composite(_drawn((shadow,) * 3, alpha), _drawn((ink,) * 3, _ink()))


def _palette(gray: int) -> Image.Image:
    image = Image.fromarray((_ink() > 127).astype(np.uint8))
    image.putpalette([0, 0, 0, gray, gray, gray])
    return image


def _deep(gray: int) -> Image.Image:
    return Image.fromarray(np.where(_ink() > 127, gray * 257, 7).astype(np.uint16))


TRANSPARENT: dict[str, bytes] = {
    "white": _file(_drawn((255, 255, 255), _ink())),
    "black": _file(_drawn((0, 0, 0), _ink())),
    "blue": _file(_drawn((20, 40, 200), _ink())),
    "yellow": _file(_drawn((250, 230, 20), _ink())),
    "white, gray and alpha": _file(_drawn((255, 255, 255), _ink()).convert("LA")),
    "white, faint": _file(_drawn((255, 255, 255), _ink() // 2)),
    "white, with a dark shadow": _file(_shadowed(255, 0)),
    "black, with a light shadow": _file(_shadowed(0, 255)),
    "white, edges gray on black": _file(Image.merge("LA", [Image.fromarray(_ink())] * 2)),
    "white, palette": _file(_palette(255), transparency=0),
    "dark, palette": _file(_palette(30), transparency=0),
    "white, 16 bits": _file(_deep(255), transparency=7),
    "dark, 16 bits": _file(_deep(20), transparency=7),
    "white, gray with one transparent": _file(_palette(255).convert("L"), transparency=0),
    "white, colour with one transparent": _file(_palette(255).convert("RGB"), transparency=(0, 0, 0)),
    "white, WebP": _file(_drawn((255, 255, 255), _ink()), "WEBP", lossless=True),
    "white, GIF": _file(_palette(255), "GIF", transparency=0),
    "white, TIFF": _file(_drawn((255, 255, 255), _ink()), "TIFF"),
    "white, HEIC": _file(_drawn((255, 255, 255), _ink()), "HEIF"),
    "white, in many strips": _file(_drawn((255, 255, 255), _ink(1500)), compress_level=1),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_ink_on_transparency_stands_out_whatever_its_colour(name: str, channels: int) -> None:
    pixels = decode_image(TRANSPARENT[name], channels=channels).pixels.astype(int)
    side = pixels.shape[0]
    ink, paper = pixels[side // 2, side // 2], pixels[2, 2]
    assert pixels.shape == (side, side, channels)
    assert abs(ink.mean() - paper.mean()) > 100
    assert paper.min() == paper.max()
    assert paper[0] in (0, 255)
    assert (pixels[[0, -1], 0] == paper).all()


def test_a_page_with_clear_corners_goes_on_in_them() -> None:
    """Windows and cards have round corners and shadows; their own light is the paper's."""
    for paper, ink in ((250, 20), (15, 240)):
        page = np.full((60, 60), paper, np.uint8)
        page[:, 28:32] = ink
        alpha = np.full((60, 60), 255, np.uint8)
        alpha[:6] = alpha[-6:] = 0
        image = Image.merge("LA", (Image.fromarray(page), Image.fromarray(alpha)))
        assert abs(int(decode_image(_file(image)).pixels[0, 0, 0]) - paper) < 20


def test_an_opaque_image_stays_what_it_is_with_and_without_alpha(ramp: np.ndarray) -> None:
    image = Image.fromarray(ramp)
    image.putalpha(255)
    assert np.array_equal(decode_image(_file(image)).pixels[..., 0], ramp)


def test_an_image_without_anything_opaque_is_a_white_page(tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    for colour in ((0, 0, 0, 0), (255, 255, 255, 0)):
        Image.new("RGBA", (5, 4), colour).save(path)
        assert (load_image(path) == 255).all()
    half = decode_image(_file(Image.new("LA", (5, 4), (0, 51)))).pixels
    assert (half == 204).all()
    deep = Image.fromarray(np.full((4, 5), 300, np.uint16))
    assert (decode_image(_file(deep, transparency=300)).pixels == 255).all()


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "HEIF"])
def test_images_are_turned_upright_by_their_exif(turned: int, form: str) -> None:
    """A picture with a bright corner and a bright edge, stored as a rotated camera stores it."""
    upright = np.zeros((32, 64), np.uint8)
    upright[:8, :] = 120
    upright[:16, :16] = 255
    # The stored pixels for each orientation, from EXIF 2.32, tag 274: where the 0th row and column are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[turned]
    exif = Image.Exif()
    exif[0x0112] = turned
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    decoded = decode_image(
        _file(image, form, exif=exif.tobytes(), **({"lossless": True} if form == "WEBP" else {})), channels=1
    )
    assert (decoded.height, decoded.width) == upright.shape
    assert np.abs(decoded.pixels[..., 0].astype(int) - upright).mean() < 2


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_large_images_are_reduced_as_they_are_decoded(form: str) -> None:
    image = np.zeros((1500, 3000), np.uint8)
    image[:, 1500:] = 200
    decoded = decode_image(_file(Image.fromarray(image), form), enough_pixels=50_000)
    assert (decoded.height, decoded.width) == (1500, 3000)
    height, width = decoded.pixels.shape[:2]
    assert 50_000 <= height * width < 200_000
    assert decoded.pixels[0, 0, 0] == 0
    assert abs(int(decoded.pixels[-1, -1, 0]) - 200) <= 2


HEIC = _file(Image.effect_noise((64, 48), 50), "HEIF")  # coded as 64 x 64, and cropped


def _claiming(heic: bytes, width: int, height: int) -> bytes:
    """Changes the size that a HEIC file states, in its box `ispe`, ISO/IEC 23008-12."""
    at = heic.index(b"ispe") + 8
    return heic[:at] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + heic[at + 8 :]


def test_of_heic_the_main_picture_is_decoded(ramp: np.ndarray) -> None:
    stream = io.BytesIO()
    file = pillow_heif.from_pillow(Image.new("L", (20, 30)))
    file.add_from_pillow(Image.fromarray(np.kron(ramp, np.ones((4, 4), np.uint8))))
    file.save(stream, quality=-1, chroma=444, primary_index=1)
    decoded = decode_image(stream.getvalue(), channels=1)
    assert (decoded.height, decoded.width) == (112, 112)
    assert np.abs(decoded.pixels[::4, ::4, 0].astype(int) - ramp).max() <= 2


def test_without_its_extra_heic_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for kind in (b"heic", b"heix", b"mif1"):
        with pytest.raises(InvalidImage, match=r"^HEIC, as iPhones save photos: .* the extra heic .* save it as JPEG$"):
            decode_image(bytes(3) + b"\x18ftyp" + kind + bytes(9))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no bytes"),
        (b"no image", "not an image in a supported format"),
        (_file(Image.new("L", (28, 28)), "PPM"), "^not an image in a supported format"),
        (bytes(3) + b"\x18ftypheic" + bytes(9), "damaged"),
        (HEIC[: len(HEIC) // 2], "damaged"),
        (_claiming(HEIC, 60_000, 60_000), "60000 x 60000 pixels are more than 40,000,000"),
        (_claiming(HEIC, 8, 8), "damaged"),
        (bytes(3) + b"\x1cftypavif" + bytes(9), "^AVIF, not"),
        (b"<?xml version='1.0'?>\n<svg width='28'/>", "^SVG, not"),
        (b"%PDF-1.7", "^PDF, not"),
        (_file(Image.new("1", (20_000, 20_000))), "more than 40,000,000"),
        (_file(Image.new("1", (6_400, 6_400))), "6400 x 6400 pixels are more than 40,000,000"),
        (_file(Image.effect_noise((28, 28), 50))[:200], "damaged"),
        (_file(Image.new("F", (28, 28)), "TIFF"), "32 bits per channel"),
    ],
)
def test_an_unusable_image_is_refused_with_the_reason(content: bytes, said: str) -> None:
    with pytest.raises(InvalidImage, match=said):
        decode_image(content)


def _text(path: Path) -> str:
    path.write_text("no image")
    return "not an image"


def _absent(path: Path) -> str:
    return "No such file"


def _directory(path: Path) -> str:
    path.mkdir()
    return "Is a directory"


@pytest.mark.parametrize("make", [_text, _absent, _directory])
def test_an_unusable_file_is_named_with_the_reason(tmp_path: Path, make) -> None:
    path = tmp_path / "digit.png"
    said = make(path)
    with pytest.raises(InvalidImage) as refused:
        load_image(path)
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
