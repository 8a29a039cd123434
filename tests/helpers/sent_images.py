"""Pictures as people send them, made from one digit of 28 x 28 pixels: tight crops, form cells, thin pens and others.

Each function takes a digit, uint8 `[28, 28]`, light ink on black, and a generator, and returns a gray picture, uint8
`[h, w]`. The same digit and state of the generator give the same picture. `DIGITS` lists those that show one digit.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Picture = np.ndarray
Kind = Callable[[np.ndarray, np.random.Generator], Picture]

_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def ink_box(share: np.ndarray) -> np.ndarray:
    """Cuts a picture at the box around its ink."""
    seen = share > share.max() / 4
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    return share[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def drawn(digit: np.ndarray, height: int, generator: np.random.Generator, *, bold: float = 0.0) -> np.ndarray:
    """Enlarges a digit with sharp edges: shares of ink from 0 to 1, cut at its box, which has this height.

    Args:
        digit: uint8 `[28, 28]`, light on black.
        height: Height of its box in pixels; the width keeps the proportions.
        generator: Decides whether edges are smooth or in black and white.
        bold: How much thicker strokes become, as a share of the height.
    """
    box = np.pad(ink_box(digit), 2)
    scale = height / (box.shape[0] - 4)
    size = (max(1, round(box.shape[1] * scale)), max(1, round(box.shape[0] * scale)))
    large = Image.fromarray(box).resize(size, _BICUBIC).filter(ImageFilter.GaussianBlur(scale / 3))
    if bold:
        radius = max(1, round(bold * height / 2))
        large = large.filter(ImageFilter.MaxFilter(2 * radius + 1))
    edge = 16.0 if generator.integers(2) else 255.0
    share = np.clip((np.asarray(large, np.float32) - 110) / (255 / edge * 8) + 0.5, 0, 1)
    return ink_box(share) if share.max() > 0.5 else ink_box(np.asarray(large) / 255)


def thin(digit: np.ndarray, height: int, generator: np.random.Generator, *, pen: float) -> np.ndarray:
    """Draws the middle lines of a digit's strokes with a thin pen; shares of ink from 0 to 1, cut at the box.

    Args:
        digit: uint8 `[28, 28]`, light on black.
        height: Height of the box in pixels.
        generator: Moves the lines a little, as a hand does.
        pen: Width of the pen as a share of the height.
    """
    solid = Image.fromarray(digit).resize((112, 112), _BICUBIC).filter(ImageFilter.GaussianBlur(2))
    points = np.argwhere(_skeleton(np.asarray(solid) > 96)).astype(np.float64)
    near = (np.abs(points[:, None] - points[None]).max(axis=2) <= 3).astype(np.float64)
    smooth = near @ points / near.sum(axis=1, keepdims=True)
    smooth -= smooth.min(axis=0)
    scale = height / max(smooth[:, 0].max(), smooth[:, 1].max() / 1.5, 1)
    width = max(1.0, pen * height)
    smooth = smooth * scale + 2 * width + generator.normal(0, width / 8, smooth.shape)
    fine = 4 if height < 150 else 2  # drawn larger, then reduced, so that edges are smooth
    canvas = Image.new("L", tuple(int((side + 2 * width) * fine) for side in smooth.max(axis=0)[::-1]))
    pencil = ImageDraw.Draw(canvas)
    joined = np.argwhere(np.triu(np.abs(points[:, None] - points[None]).max(axis=2) == 1))
    for first, second in joined:
        ends = [tuple(point) for point in (smooth[[first, second], ::-1] * fine).tolist()]
        pencil.line(ends, fill=255, width=max(1, round(width * fine)))
    return ink_box(np.asarray(canvas.reduce(fine), np.float32) / 255)


def _skeleton(mask: np.ndarray) -> np.ndarray:
    """Thins strokes to one pixel (Zhang and Suen, "A fast parallel algorithm for thinning digital patterns", 1984)."""
    mask = np.pad(mask, 1)
    while True:
        before = mask.copy()
        for turn in (0, 1):
            n, e, s, w = (np.roll(mask, shift, axis) for shift, axis in ((1, 0), (-1, 1), (-1, 0), (1, 1)))
            ring = [n, np.roll(n, -1, 1), e, np.roll(s, -1, 1), s, np.roll(s, 1, 1), w, np.roll(n, 1, 1)]
            count = np.sum(ring, axis=0)
            rises = np.sum([~a & b for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)], axis=0)
            free = ~(n & e & s) & ~(e & s & w) if turn == 0 else ~(n & e & w) & ~(n & s & w)
            mask = mask & ~((count >= 2) & (count <= 6) & (rises == 1) & free)
        if (mask == before).all():
            return mask[1:-1, 1:-1]


def put(page: np.ndarray, share: np.ndarray, ink: float, top: int, left: int) -> None:
    """Draws a digit in this gray level on a page of floats, in place; what is outside is cut off."""
    y, x = max(0, -top), max(0, -left)
    share = share[y : max(y, page.shape[0] - top), x : max(x, page.shape[1] - left)]
    part = page[max(0, top) : max(0, top) + share.shape[0], max(0, left) : max(0, left) + share.shape[1]]
    part += (ink - part) * share


def finished(page: np.ndarray) -> Picture:
    return np.clip(np.rint(page), 0, 255).astype(np.uint8)


def as_jpeg(picture: Picture, quality: int) -> Picture:
    """Encodes as JPEG and decodes again."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def _polarity(share: np.ndarray, generator: np.random.Generator) -> Picture:
    """Black on white or white on black."""
    page = 255.0 * share
    return finished(page if generator.integers(2) else 255 - page)


def tight_crop(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """Enlarged to 40 to 400 pixels, made bolder, and cut at its box with a margin of 0, 1 or 2 %."""
    height = int(generator.integers(40, 401))
    share = drawn(digit, height, generator, bold=float(generator.choice([0, 0.02, 0.05, 0.08])))
    return _polarity(np.pad(share, round(height * float(generator.choice([0, 0.01, 0.02])))), generator)


def rim_crop(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """Cut at the ink on one to three sides, so that parts of the digit run along the rim, with space on the others."""
    height = int(generator.integers(40, 301))
    share = drawn(digit, height, generator, bold=float(generator.choice([0, 0.03, 0.06])))
    margins = generator.integers(height // 20, height // 2, 4)
    margins[generator.permutation(4)[: generator.integers(1, 4)]] = 0
    return _polarity(np.pad(share, (tuple(margins[:2]), tuple(margins[2:]))), generator)


def filled_16(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """16 x 16 pixels in black and white, stretched so that the digit touches all sides, as Semeion's."""
    share = drawn(digit, 160, generator)
    width = min(160, round(share.shape[1] * generator.uniform(1.0, 1.6)))
    fitted = Image.fromarray(finished(share * 255)).resize((max(16, round(width / 10)), 16), _BILINEAR)
    wide = np.zeros((16, 16))
    left = (16 - fitted.width) // 2
    wide[:, left : left + fitted.width] = np.asarray(fitted) > generator.integers(90, 140)
    return _polarity(wide, generator)


def filled_8(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """8 x 8 pixels in 17 shades, which the digit fills from top to bottom, as optdigits' and `load_digits`."""
    return finished(np.rint(_filled_32(digit, generator).reshape(8, 4, 8, 4).mean(axis=(1, 3)) * 16) * 255 / 16)


def filled_32(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """32 x 32 pixels in black and white, which the digit fills from top to bottom, as optdigits' bitmaps."""
    return _polarity(_filled_32(digit, generator), generator)


def _filled_32(digit: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    share = drawn(digit, 128, generator, bold=float(generator.choice([0, 0.04])))
    width = max(1, min(32, round(share.shape[1] / 4 * generator.uniform(0.9, 1.2))))
    fitted = np.asarray(Image.fromarray(finished(share * 255)).resize((width, 32), _BILINEAR)) > 110
    return np.pad(fitted, ((0, 0), ((32 - width) // 2, 32 - width - (32 - width) // 2))).astype(np.float64)


def form_cell(
    digit: np.ndarray, generator: np.random.Generator, *, line: str = "black", crossing: bool = False
) -> Picture:
    """A digit in a printed box: lines 5 % inside the picture, some of which run on to its edge.

    Args:
        digit: uint8 `[28, 28]`, light on black.
        generator: Decides sizes, places, gray levels, noise and JPEG.
        line: `black` (2 to 4 % of the side), `gray` (lighter than the pencil), `thin` (one or two pixels).
        crossing: The digit crosses a line.
    """
    side = int(generator.integers(60, 401))
    height, width = side, round(side * generator.uniform(0.7, 1.3))
    page = np.full((height, width), generator.choice([255.0, 255.0, 240.0, 225.0]))
    pencil = generator.uniform(0, 30) if line == "gray" else generator.choice([0.0, generator.uniform(0, 110)])
    level = {"black": generator.uniform(0, 30), "gray": generator.uniform(90, 190), "thin": generator.uniform(0, 140)}
    thick = max(1, round(side * generator.uniform(0.02, 0.04))) if line != "thin" else int(generator.integers(1, 3))
    _box(page, level[line], thick, round(0.05 * side), generator)
    share = drawn(digit, max(8, round(height * generator.uniform(0.4, 0.7))), generator)
    if share.shape[1] > 0.7 * width:
        share = drawn(digit, max(8, round(0.7 * width / share.shape[1] * share.shape[0])), generator)
    free = [(page.shape[axis] - share.shape[axis]) / 2 for axis in (0, 1)]
    move = [generator.uniform(-0.4, 0.4) * space for space in free]
    if crossing:
        axis = int(generator.integers(2))
        move[axis] = generator.choice([-1, 1]) * (free[axis] - 0.05 * side + 0.06 * share.shape[axis])
    top, left = (round(space + by) for space, by in zip(free, move, strict=True))
    ink = np.full_like(page, 255)
    put(ink, share, pencil, top, left)
    return _scanned(_tilted(np.minimum(page, ink), generator), generator)


def _tilted(page: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Turns half of the pages by up to one degree, as a scanner does."""
    if generator.integers(2):
        return page
    turned = Image.fromarray(finished(page)).rotate(
        generator.uniform(-1, 1), _BICUBIC, fillcolor=int(page[0, 0]) if page[0, 0] > 128 else 255
    )
    return np.asarray(turned, np.float64)


def _box(page: np.ndarray, level: float, thick: int, inset: int, generator: np.random.Generator) -> None:
    """Draws a rectangle of lines, in place; each line ends at the corner or runs on to the edge."""
    height, width = page.shape
    for axis, length in ((0, height), (1, width)):
        for start in (inset, length - inset - thick):
            first, last = (0 if generator.integers(2) else inset for _ in range(2))
            along = slice(first, page.shape[1 - axis] - last)
            page[(slice(start, start + thick), along) if axis == 0 else (along, slice(start, start + thick))] = level


def _scanned(page: np.ndarray, generator: np.random.Generator) -> Picture:
    """Adds what a scanner does: nothing, noise, or noise, blur and JPEG."""
    how = generator.integers(3)
    if how == 0:
        return finished(page)
    noisy = finished(page + generator.normal(0, 3, page.shape))
    if how == 1:
        return noisy
    blurred = Image.fromarray(noisy).filter(ImageFilter.GaussianBlur(0.7))
    return as_jpeg(np.asarray(blurred), int(generator.integers(40, 90)))


def edge_lines(digit: np.ndarray, generator: np.random.Generator, *, crossing: bool = False) -> Picture:
    """Lines along one, two or three sides at the very edge, as what is left of a box when a cell is cut out."""
    height = int(generator.integers(40, 301))
    share = drawn(digit, height, generator)
    margins = generator.uniform(0.15, 0.6, 4) * height
    lined = generator.permutation(4)[: generator.integers(1, 4)]
    if crossing:
        margins[lined[0]] = -0.02 * height
    top, bottom, left, right = np.round(margins).astype(int)
    page = np.full((share.shape[0] + top + bottom, share.shape[1] + left + right), 255.0)
    ink = page.copy()
    put(ink, share, generator.uniform(0, 90), top, left)
    for which in lined:
        thick = max(1, round(min(page.shape) * generator.uniform(0.01, 0.05)))
        inner = (slice(thick), slice(None)) if which % 2 == 0 else (slice(-thick, None), slice(None))
        page[inner if which < 2 else inner[::-1]] = generator.uniform(0, 160)
    return _scanned(np.minimum(page, ink), generator)


def patch(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """A photo of a digit on gray paper, pasted into a larger white square."""
    height = int(generator.integers(40, 250))
    share = drawn(digit, height, generator)
    margins = generator.integers(height // 10, height // 2, 4)
    share = np.pad(share, (tuple(margins[:2]), tuple(margins[2:])))
    paper = generator.uniform(120, 225)
    slope = np.linspace(1, generator.uniform(0.8, 1.0), share.shape[int(generator.integers(2))])
    light = slope if len(slope) == share.shape[1] else slope[:, None]
    photo = paper * light * (1 - share) + generator.uniform(10, 80) * share + generator.normal(0, 3, share.shape)
    side = round(max(share.shape) * generator.uniform(1.0, 1.4)) + 2
    page = np.full((side, side), 255.0)
    top, left = ((side - length) // 2 for length in share.shape)
    page[top : top + share.shape[0], left : left + share.shape[1]] = photo
    return as_jpeg(finished(page), 85) if generator.integers(2) else finished(page)


def pixel_grid(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """A small field of large pixels with lines between them, as programs for drawing pixels show it."""
    cells, cell = int(generator.choice([16, 20, 24, 28, 32])), int(generator.integers(8, 21))
    share = ink_box(digit)
    scale = cells * generator.uniform(0.6, 0.85) / max(share.shape)
    fitted = Image.fromarray(share).resize(tuple(max(1, round(n * scale)) for n in share.shape[::-1]), _BILINEAR)
    field = np.zeros((cells, cells))
    top, left = (int(generator.integers(1, cells - n)) for n in (fitted.height, fitted.width))
    field[top : top + fitted.height, left : left + fitted.width] = np.asarray(fitted) > 100
    page = 255 - 255 * np.kron(field, np.ones((cell, cell)))
    line = generator.uniform(150, 230)
    page[::cell] = np.minimum(page[::cell], line)
    page[:, ::cell] = np.minimum(page[:, ::cell], line)
    return finished(page if generator.integers(2) else 255 - page)


def thin_pen(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """Strokes of 1 to 2 % of the picture's side."""
    side = int(generator.integers(100, 401))
    height = round(side * generator.uniform(0.4, 0.8))
    share = thin(digit, height, generator, pen=side / height * generator.uniform(0.01, 0.02))
    page = np.zeros([max(side, length) for length in share.shape])
    top, left = (int(generator.integers(side - length + 1)) if length < side else 0 for length in share.shape)
    put(page, share, 1.0, top, left)
    return _polarity(page, generator)


def on_paper(digit: np.ndarray, generator: np.random.Generator) -> Picture:
    """A digit of any small size, such as `load_digits`' 8 x 8, enlarged in each of three ways, with a margin."""
    side = int(generator.integers(40, 301))
    how = (Image.Resampling.NEAREST, _BILINEAR, _BICUBIC)[generator.integers(3)]
    large = np.asarray(Image.fromarray(digit).resize((side, side), how)) / 255
    margins = generator.integers(side // 10, side // 2, 4)
    return _polarity(np.pad(large, (tuple(margins[:2]), tuple(margins[2:]))), generator)


def several(digits: list[np.ndarray], generator: np.random.Generator) -> Picture:
    """Two or more digits side by side, or now and then one over another, with similar sizes and space between them."""
    height = int(generator.integers(40, 161))
    parts = [drawn(digit, round(height * generator.uniform(0.85, 1.15)), generator) for digit in digits]
    upright = generator.integers(4) == 0
    parts = [part.T if upright else part for part in parts]
    tall = max(part.shape[0] for part in parts)
    row = []
    for part in parts:
        above = int(generator.integers(0, tall - part.shape[0] + 1))
        gap = round(height * generator.uniform(0.08, 0.4))
        row.append(np.pad(part, ((above, tall - part.shape[0] - above), (gap, 0))))
    share = np.concatenate(row, axis=1)
    share = np.pad(share.T if upright else share, round(height * generator.uniform(0.1, 0.5)))
    if generator.integers(2):
        return _polarity(share, generator)
    return _scanned(generator.uniform(180, 255) * (1 - share) + generator.uniform(0, 60) * share, generator)


def empty(generator: np.random.Generator) -> Picture:
    """A page without ink: white, black, gray, noisy, in uneven light, or with only a printed frame."""
    height = int(generator.integers(60, 400))
    width = round(height * generator.uniform(0.6, 1.6))
    page = np.full((height, width), generator.choice([0.0, 255.0, generator.uniform(0, 255)]))
    how = generator.integers(5)
    if how == 1:
        page += generator.normal(0, generator.uniform(1, 8), page.shape)
    elif how == 2:
        page = 230 * np.linspace(1, generator.uniform(0.5, 1), width) + generator.normal(0, 3, page.shape)
    elif how >= 3:
        page[...] = 255
        _box(page, generator.uniform(0, 120), max(1, round(0.03 * min(page.shape))), round(0.05 * height), generator)
        return _scanned(page, generator)
    return finished(page)


DIGITS: dict[str, Kind] = {
    "tight crop": tight_crop,
    "crop with ink along the rim": rim_crop,
    "16 x 16, black and white, filled": filled_16,
    "8 x 8, filled": filled_8,
    "32 x 32, black and white, filled": filled_32,
    "form cell": form_cell,
    "form cell, gray lines": lambda digit, generator: form_cell(digit, generator, line="gray"),
    "form cell, thin lines": lambda digit, generator: form_cell(digit, generator, line="thin"),
    "form cell, digit crosses": lambda digit, generator: form_cell(digit, generator, crossing=True),
    "lines along the edge": edge_lines,
    "lines along the edge, digit crosses": lambda digit, generator: edge_lines(digit, generator, crossing=True),
    "patch of gray paper": patch,
    "pixel grid": pixel_grid,
    "thin pen": thin_pen,
    "8 x 8 enlarged on paper": on_paper,
}
