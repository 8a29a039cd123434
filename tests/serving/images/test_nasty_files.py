"""Difficult files: each gets the right answer or a clear error, in bounded time and memory."""

from __future__ import annotations

import io
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.config import SAMPLES

pillow_heif.register_heif_opener()  # so that tests can save HEIC

SEVEN = Image.open(SAMPLES / "7.png").convert("L")
# Black ink on a white page, off-centre. Two digits tell frames and pages apart.
PAGE, OTHER = (
    ImageOps.expand(ImageOps.invert(Image.open(SAMPLES / f"{digit}.png").convert("L").resize((112, 112))), 40, 255)
    for digit in (7, 3)
)
GRAY = np.asarray(PAGE)
LIMIT = 40_000_000

# The expected outcome: a label, ANY label, or words of the error.
ANY = -2


def _file(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.copy().save(stream, form, **options)  # Pillow leaves one format's settings on an image for the next
    return stream.getvalue()


def _others() -> list[Image.Image]:
    return [OTHER.copy(), OTHER.copy()]


def _chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    """A chunk of PNG, PNG 1.2 section 3.2."""
    checked = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checked)


def _png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes, interlaced: bool = False
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            *more,
            _chunk(b"IDAT", zlib.compress(rows, 1)),
            _chunk(b"IEND", b""),
        ]
    )


def _rows(pixels: np.ndarray) -> bytes:
    """Rows of a PNG, each with filter 0 in front."""
    return b"".join(b"\x00" + row.tobytes() for row in pixels)


def _deep_png(channels: int) -> bytes:
    """16 bits in each of three or four channels, which Pillow can't write."""
    pixels = np.repeat(GRAY[..., None].astype(">u2") * 257, channels, axis=2)
    pixels[..., 3:] = 65535
    return _png(*PAGE.size, 16, {3: 2, 4: 6}[channels], _rows(pixels))


def _interlaced_png() -> bytes:
    """Adam7, PNG 1.2 section 2.6."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b"".join(_rows(GRAY[top::down, left::right]) for top, left, down, right in passes)
    return _png(*PAGE.size, 8, 0, rows, interlaced=True)


def _tiff(*entries: tuple[int, int, int, int], strip: bytes = b"\x00" * 16) -> bytes:
    """A little-endian TIFF 6.0 of one directory and one strip after it; entries are tag, type, count, value."""
    strip_offset = 8 + 2 + 12 * (len(entries) + 2) + 4
    all_entries = sorted([*entries, (273, 4, 1, strip_offset), (279, 4, 1, len(strip))])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in all_entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(all_entries)) + directory + struct.pack("<I", 0) + strip


def _plain_tiff(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    return _tiff((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), *more)


def _bmp(width: int, height: int, bits: int, compression: int, colours: bytes, pixels: bytes) -> bytes:
    """A BMP with a BITMAPINFOHEADER."""
    offset = 54 + len(colours)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, len(colours) // 4, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset) + info + colours + pixels


GRAYS = b"".join(bytes([level, level, level, 0]) for level in range(256))


def _upside_down_bmp() -> bytes:
    """With a negative height the first row is at the top."""
    assert GRAY.shape[1] % 4 == 0
    return _bmp(GRAY.shape[1], -GRAY.shape[0], 8, 0, GRAYS, GRAY.tobytes())


def _run_length_bmp() -> bytes:
    rows = b"".join(b"".join(b"\x01" + bytes([value]) for value in row) + b"\x00\x00" for row in GRAY[::-1])
    return _bmp(GRAY.shape[1], GRAY.shape[0], 8, 1, GRAYS, rows + b"\x00\x01")


def _webp_header(width: int, height: int) -> bytes:
    """An extended WebP that declares a canvas and contains nothing."""
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\x00\x00\x00\x00" + canvas
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _heic_claiming(width: int, height: int) -> bytes:
    content = _file(PAGE, "HEIF")
    start = content.index(b"ispe") + 8
    return content[:start] + struct.pack(">II", width, height) + content[start + 8 :]


def _jpeg_claiming(width: int, height: int) -> bytes:
    content = _file(PAGE, "JPEG")
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", height, width) + content[start + 4 :]


def _many_scans() -> bytes:
    """A progressive JPEG that repeats its last scan two thousand times."""
    content = _file(PAGE, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * 2000 + content[-2:]


def _gif_claiming(width: int, height: int) -> bytes:
    content = _file(PAGE, "GIF")
    return content[:6] + struct.pack("<HH", width, height) + content[10:]


def _turned(form: str, orientation: int) -> bytes:
    """A page as a rotated camera stores it."""
    stored = {3: PAGE.rotate(180), 6: PAGE.rotate(90), 8: PAGE.rotate(-90), 2: ImageOps.mirror(PAGE)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _file(stored, form, exif=exif.tobytes())


def _with_alpha(ink: int) -> Image.Image:
    return Image.merge("LA", (Image.new("L", PAGE.size, ink), ImageOps.invert(PAGE)))


def _clear_palette() -> bytes:
    """Ink in one palette colour on a transparent black one."""
    indices = Image.fromarray((GRAY < 128).astype(np.uint8))
    indices.putpalette([0, 0, 0, 20, 20, 90])
    return _file(indices, "PNG", transparency=0)


def _on(page: tuple[int, int], at: tuple[int, int], form: str = "PNG", mode: str = "L") -> bytes:
    image = Image.new(mode, page, "white")
    image.paste(PAGE.convert(mode), at)
    return _file(image, form, **({"compress_level": 1} if form == "PNG" else {}))


def _with_text_bomb() -> bytes:
    bomb = _chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(100 << 20), 9))
    return _png(*PAGE.size, 8, 0, _rows(GRAY), bomb)


def _with_profile_bomb() -> bytes:
    bomb = _chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(bytes(100 << 20), 9))
    return _png(*PAGE.size, 8, 0, _rows(GRAY), bomb)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("7.png", _file(PAGE, "PNG"))
    return stream.getvalue()


def _broken(content: bytes, at: int, change: bytes) -> bytes:
    return content[:at] + change + content[at + len(change) :]


def _half(form: str, image: Image.Image = PAGE, **options: object) -> bytes:
    content = _file(image, form, **options)
    return content[: len(content) // 2]


UNKNOWN, DAMAGED, LARGE = "not an image in a supported format", "truncated or damaged", "more than 40,000,000"
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))

CASES: dict[str, tuple[Callable[[], bytes], int | str]] = {
    # gray and colour, one to sixteen bits
    "png as the data set has it": (lambda: _file(SEVEN, "PNG"), 7),
    "png, black on white": (lambda: _file(PAGE, "PNG"), 7),
    "png, white on black": (lambda: _file(ImageOps.invert(PAGE), "PNG"), 7),
    "png of 1 bit": (lambda: _file(PAGE.point(lambda value: value > 128 and 255, "1"), "PNG"), 7),
    "png with 4 colours": (lambda: _file(PAGE.quantize(4), "PNG", bits=2), 7),
    "png with 16 colours": (lambda: _file(PAGE.quantize(16), "PNG", bits=4), 7),
    "png of 16 bits": (lambda: _file(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"), 7),
    "png of 16 bits, faint": (lambda: _file(Image.fromarray(40_000 + GRAY.astype(np.uint16) * 60), "PNG"), 7),
    "png of 48 bits": (lambda: _deep_png(3), 7),
    "png of 64 bits": (lambda: _deep_png(4), 7),
    "png, interlaced": (_interlaced_png, 7),
    "png, blue ink on yellow": (lambda: _file(ImageOps.colorize(PAGE, "#1030a0", "#f8f0a0"), "PNG"), 7),
    "png with alpha, black ink": (lambda: _file(_with_alpha(0), "PNG"), 7),
    "png with alpha, in colour": (lambda: _file(_with_alpha(30).convert("RGBA"), "PNG"), 7),
    "png with alpha, white ink": (lambda: _file(_with_alpha(255), "PNG"), 7),
    "png, palette with transparency": (_clear_palette, 7),
    "png, one gray transparent": (lambda: _file(PAGE.point(lambda v: 0 if v > 128 else 90), "PNG", transparency=0), 7),
    "png, one colour transparent": (
        lambda: _file(PAGE.point(lambda v: 0 if v > 128 else 90).convert("RGB"), "PNG", transparency=(0, 0, 0)),
        7,
    ),
    "jpeg": (lambda: _file(PAGE, "JPEG"), 7),
    "jpeg, quality 10": (lambda: _file(PAGE, "JPEG", quality=10), 7),
    "jpeg, progressive": (lambda: _file(PAGE.convert("RGB"), "JPEG", progressive=True), 7),
    "jpeg in cmyk": (lambda: _file(PAGE.convert("CMYK"), "JPEG"), 7),
    "jpeg of two pictures": (lambda: _file(PAGE.convert("RGB"), "MPO", save_all=True, append_images=_others()), 7),
    "webp": (lambda: _file(PAGE, "WEBP"), 7),
    "webp, lossless with alpha": (lambda: _file(_with_alpha(0).convert("RGBA"), "WEBP", lossless=True), 7),
    "heic": (lambda: _file(PAGE, "HEIF"), 7),
    "heic with alpha, white ink": (lambda: _file(_with_alpha(255), "HEIF"), 7),
    "bmp": (lambda: _file(PAGE.convert("RGB"), "BMP"), 7),
    "bmp of 1 bit": (lambda: _file(PAGE.convert("1"), "BMP"), 7),
    "bmp with palette": (lambda: _file(PAGE.quantize(8), "BMP"), 7),
    "bmp, first row on top": (_upside_down_bmp, 7),
    "bmp, run lengths": (_run_length_bmp, 7),
    "tiff": (lambda: _file(PAGE, "TIFF"), 7),
    "tiff of 1 bit as faxes have it": (lambda: _file(PAGE.convert("1"), "TIFF", compression="group4"), 7),
    "tiff of 16 bits": (lambda: _file(Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"), 7),
    "tiff in cmyk": (lambda: _file(PAGE.convert("CMYK"), "TIFF", compression="tiff_lzw"), 7),
    "tiff in jpeg": (lambda: _file(PAGE.convert("RGB"), "TIFF", compression="jpeg"), 7),
    "gif": (lambda: _file(PAGE, "GIF"), 7),
    "gif, transparent": (lambda: _file(PAGE.quantize(2), "GIF", transparency=PAGE.quantize(2).getpixel((0, 0))), 7),
    # several pictures: the first counts
    "gif, animated": (lambda: _file(PAGE, "GIF", save_all=True, append_images=_others()), 7),
    "webp, animated": (lambda: _file(PAGE, "WEBP", save_all=True, append_images=_others()), 7),
    "png, animated": (lambda: _file(PAGE, "PNG", save_all=True, append_images=_others()), 7),
    "tiff of several pages": (lambda: _file(PAGE, "TIFF", save_all=True, append_images=_others()), 7),
    # turned
    "jpeg, upside down": (lambda: _turned("JPEG", 3), 7),
    "jpeg, turned left": (lambda: _turned("JPEG", 6), 7),
    "jpeg, turned right": (lambda: _turned("JPEG", 8), 7),
    "jpeg, mirrored": (lambda: _turned("JPEG", 2), 7),
    "png, turned left": (lambda: _turned("PNG", 6), 7),
    "webp, turned right": (lambda: _turned("WEBP", 8), 7),
    "heic, turned left": (lambda: _turned("HEIF", 6), 7),
    "tiff, turned left": (lambda: _turned("TIFF", 6), 7),
    "jpeg, damaged exif": (lambda: _file(PAGE, "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f" + b"\xff" * 40), 7),
    # sizes
    "one pixel": (lambda: _file(Image.new("L", (1, 1), 9), "PNG"), ANY),
    "one pixel high": (lambda: _file(Image.new("L", (300, 1), 9), "BMP"), ANY),
    "all white": (lambda: _file(Image.new("L", (28, 28), 255), "PNG"), ANY),
    "all black": (lambda: _file(Image.new("RGB", (500, 300), 0), "JPEG"), ANY),
    "noise": (lambda: _file(NOISE, "PNG"), ANY),
    "20,000 wide": (lambda: _on((20_000, 200), (9_000, 4)), 7),
    "20,000 high": (lambda: _on((200, 20_000), (4, 15_000)), 7),
    "20 megapixels": (lambda: _file(PAGE.resize((4500, 4500)), "JPEG"), 7),
    "20 megapixels of webp": (
        lambda: _file(PAGE.resize((4500, 4500)), "WEBP", quality=10, method=0),
        "more than 16,000,000",
    ),
    "36 megapixels with alpha": (lambda: _file(PAGE.resize((6000, 6000)).convert("RGBA"), "PNG", compress_level=1), 7),
    # metadata and trailing bytes
    "png with garbage at the end": (lambda: _file(PAGE, "PNG") + b"garbage" * 1000, 7),
    "jpeg with garbage at the end": (lambda: _file(PAGE, "JPEG") + b"\x00" * 100_000, 7),
    "png with more rows than its header says": (lambda: _png(*PAGE.size, 8, 0, _rows(GRAY) + bytes(50 << 20)), 7),
    "png with a comment of 100 MiB": (_with_text_bomb, DAMAGED),
    "png with a profile of 100 MiB": (_with_profile_bomb, DAMAGED),
    # bombs: far more pixels than bytes
    "png bomb": (lambda: _png(20_000, 20_000, 1, 0, bytes(2501 * 20_000)), LARGE),
    "png just above the limit": (lambda: _file(Image.new("1", (6_400, 6_400)), "PNG"), LARGE),
    "png that claims two billion columns": (lambda: _png(2**31 - 1, 2**31 - 1, 8, 0, bytes(100)), LARGE),
    "gif bomb": (lambda: _gif_claiming(65_535, 65_535), LARGE),
    "jpeg bomb": (lambda: _jpeg_claiming(65_500, 65_500), LARGE),
    "bmp bomb": (lambda: _bmp(60_000, 60_000, 8, 0, GRAYS, bytes(100)), LARGE),
    "tiff bomb": (lambda: _plain_tiff(2**31 - 1, 2**31 - 1), LARGE),
    "heic bomb": (lambda: _heic_claiming(60_000, 60_000), LARGE),
    "webp bomb": (lambda: _webp_header(16_383, 16_383), LARGE),
    "jpeg of two thousand scans": (_many_scans, "scans"),
    # damaged
    "png, half": (lambda: _half("PNG"), DAMAGED),
    "png without its last byte of pixels": (lambda: _png(*PAGE.size, 8, 0, _rows(GRAY)[:-1000]), DAMAGED),
    "png, header only": (lambda: _file(PAGE, "PNG")[:33], UNKNOWN),
    "png, a wrong sum in the header": (lambda: _broken(_file(PAGE, "PNG"), 29, b"\x00\x00\x00\x00"), UNKNOWN),
    "png, wrong bytes in the pixels": (lambda: _broken(_file(NOISE, "PNG"), 300, b"\x00" * 30), DAMAGED),
    "png of no width": (lambda: _png(0, 10, 8, 0, bytes(11)), UNKNOWN),
    "jpeg, half": (lambda: _half("JPEG", PAGE.resize((900, 900)), quality=95), DAMAGED),
    "jpeg, header only": (lambda: _file(PAGE, "JPEG")[:20], UNKNOWN),
    "webp, half": (lambda: _half("WEBP"), DAMAGED),
    "heic, half": (lambda: _half("HEIF"), DAMAGED),
    "heic of more pixels than its header says": (lambda: _heic_claiming(8, 8), DAMAGED),
    "gif, half": (lambda: _half("GIF"), DAMAGED),
    "bmp, half": (lambda: _half("BMP"), DAMAGED),
    "tiff, half": (lambda: _half("TIFF"), DAMAGED),
    "tiff whose strip is elsewhere": (lambda: _plain_tiff(100, 100), DAMAGED),
    "tiff whose tag has a billion values": (lambda: _plain_tiff(100, 100, (320, 3, 2**30, 8)), DAMAGED),
    "tiff whose directory is beyond its end": (lambda: b"II*\x00\xff\xff\xff\x7f", UNKNOWN),
    # neither gray nor RGB-like colour
    "tiff of 32 bits": (lambda: _file(PAGE.convert("I"), "TIFF"), "32 bits"),
    "tiff of floats": (lambda: _file(PAGE.convert("F"), "TIFF"), "32 bits"),
    "tiff in lab": (lambda: _file(Image.new("LAB", (40, 40)), "TIFF"), "unusual colour space"),
    # not images
    "no bytes": (lambda: b"", "no bytes"),
    "one byte": (lambda: b"\x89", UNKNOWN),
    "text": (lambda: b"seven\n", UNKNOWN),
    "a web page": (lambda: b"<!DOCTYPE html><title>404</title>", UNKNOWN),
    "svg": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><text>7</text></svg>', UNKNOWN),
    "pdf": (lambda: _file(PAGE, "PDF"), UNKNOWN),
    "zip": (_zip, UNKNOWN),
    "numbers": (GRAY.tobytes, UNKNOWN),
    "ppm": (lambda: _file(PAGE, "PPM"), UNKNOWN),
    "ico": (lambda: _file(PAGE, "ICO"), UNKNOWN),
    "tga": (lambda: _file(PAGE, "TGA"), UNKNOWN),
    "jpeg 2000": (lambda: b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100), UNKNOWN),
    "postscript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", UNKNOWN),
    **{
        f"noise that begins as {name}": (lambda start=start: start + NOISE.tobytes(), "image")
        for name, start in {
            "png": b"\x89PNG\r\n\x1a\n",
            "jpeg": b"\xff\xd8\xff\xe0",
            "gif": b"GIF89a",
            "tiff": b"MM\x00*",
            "bmp": b"BM",
            "webp": b"RIFF\x10\x03\x00\x00WEBPVP8 ",
        }.items()
    },
}

# Limit per file: far more than any takes on an idle machine, far less than a bomb would.
SECONDS = 20
# Limit on the server's growth over all files: four bytes per pixel of the largest decoded image, and a margin.
MEMORY_BYTES = 4 * 36_000_000 + (100 << 20)


@pytest.fixture(scope="module")
def stub(server) -> Iterator[digits_pb2_grpc.DigitClassifierServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield digits_pb2_grpc.DigitClassifierServiceStub(channel)


@pytest.fixture(scope="module", autouse=True)
def resting_bytes(server) -> int:
    """Peak memory of the server before it has decoded anything."""
    return _peak_bytes(server.process.pid)


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    return {name: make() for name, (make, _) in CASES.items()}


def _request(images: list[bytes], **options: object) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(encoded_images=digits_pb2.EncodedImages(images=images), **options)


def _peak_bytes(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _leaks(text: str) -> list[str]:
    return [word for word in ("Traceback", "Error", "Exception", ".py", " at 0x", "BytesIO", "PIL") if word in text]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("name", CASES)
def test_a_nasty_file_gets_the_right_answer_or_a_clear_error(stub, contents: dict[str, bytes], name: str) -> None:
    expected = CASES[name][1]
    began = time.perf_counter()
    if isinstance(expected, str):
        with pytest.raises(grpc.RpcError) as refused:
            stub.Classify(_request([contents[name]]), timeout=SECONDS)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details().startswith("encoded_images.images[0]: ")
        assert expected in refused.value.details()
        assert not _leaks(refused.value.details())
    else:
        (label,) = stub.Classify(_request([contents[name]]), timeout=SECONDS).labels
        assert label == expected if expected != ANY else 0 <= label <= 9
    assert time.perf_counter() - began < SECONDS


def test_in_one_request_each_file_fails_or_succeeds_by_itself_and_memory_stays_bounded(
    server, resting_bytes: int, stub, contents: dict
) -> None:
    answers, places = {}, []
    names = list(CASES)
    for start in range(0, len(names), 16):
        part = names[start : start + 16]
        response = stub.Classify(
            _request([contents[name] for name in part], per_image_errors=True, top_k=2), timeout=4 * SECONDS
        )
        assert len(response.labels) == len(part)
        assert len(response.top_labels) == 2 * len(part)
        answers |= dict(zip(part, response.labels, strict=True))
        places += [part[error.index] for error in response.errors]
    assert places == [name for name in names if isinstance(CASES[name][1], str)]
    for name, label in answers.items():
        expected = CASES[name][1]
        assert label == (-1 if isinstance(expected, str) else expected) or (expected == ANY and 0 <= label <= 9), name
    assert _peak_bytes(server.process.pid) < resting_bytes + MEMORY_BYTES
