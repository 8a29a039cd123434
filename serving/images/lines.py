"""Printed lines and frames along the sides of a picture: straight, thin, and running through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating]

# A picture with a smaller side, in pixels, is filled by its digit: nothing in it is a line.
_LEAST_SIDE = 20
# All shares are of the picture's side across the line or along it. A line lies within this share of its side.
_DEEPEST = 0.25
_THICKEST = 0.07
# At least this share of its length is straight and about as thick as the rest; a digit may cross the remainder. Less is
# enough if there are lines along two other sides.
_STRAIGHT, _STRAIGHT_IN_FRAME = 0.6, 0.35
# It begins and ends this near to the corners.
_ENDS = 0.15
# A digit that comes this near to a side without a line was cut there, so what lies along the others is part of it,
# unless it is straight along this share of its length.
_CUT, _UNCROSSED = 0.02, 0.9
# What is left must be this high or wide, or there is no digit.
_LEAST_REST = 0.12
# Ruled lines have ink along this share of their length, and take up at most this share of the page.
_RULED, _RULES = 0.85, 0.4
# Frames may be double, and a scan may show the edge of the next box.
_LAYERS = 3

# Each view turns a picture so that one of its sides is on top.
_VIEWS: tuple[Callable[[Mask], Mask], ...] = (
    lambda mask: mask,
    lambda mask: mask[::-1],
    lambda mask: mask.T,
    lambda mask: mask.T[::-1],
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A line along the top of a picture.

    Attributes:
        top: Its upper edge in each column, in pixels from the top.
        thickness: In pixels.
        straight: The share of its length where it is straight, and nothing crosses it.
    """

    top: FloatArray
    thickness: float
    straight: float


def without_lines(ink: Mask) -> tuple[Mask, int]:
    """Takes lines along the sides away.

    Args:
        ink: `[h, w]`.

    Returns:
        The ink without lines, `[h, w]`, and along how many sides there were some. A digit that crosses a line keeps
        its ink there. If there was nothing but a frame, no ink is left.
    """
    if min(ink.shape) < _LEAST_SIDE:
        return ink, 0
    rest = ink.copy()
    lined: set[int] = set()
    crossed = False
    for _ in range(_LAYERS):
        found = False
        for side, view in enumerate(_VIEWS):
            straight = _STRAIGHT_IN_FRAME if len(lined - {side}) >= 2 else _STRAIGHT
            if (line := _line(view(rest), straight)) is not None:
                _erase(view(rest), line)
                lined.add(side)
                crossed |= line.straight < _UNCROSSED
                found = True
        if not found:
            break
    if not lined:
        return ink, 0
    rows, columns = np.flatnonzero(rest.any(axis=1)), np.flatnonzero(rest.any(axis=0))
    height, width = rest.shape
    if not rows.size or max((rows[-1] - rows[0]) / height, (columns[-1] - columns[0]) / width) < _LEAST_REST:
        return (np.zeros_like(ink), len(lined)) if len(lined) > 2 else (ink, 0)
    space = (rows[0] / height, 1 - (rows[-1] + 1) / height, columns[0] / width, 1 - (columns[-1] + 1) / width)
    if crossed and len(lined) < 3 and any(space[side] < _CUT for side in range(4) if side not in lined):
        return ink, 0
    return rest, len(lined)


def ruling_level(ink: Mask, contrast: npt.NDArray[np.float32]) -> float:
    """Returns the contrast of lines that cross the whole picture, as on ruled paper or in a pixel grid; 0 for none.

    Args:
        ink: `[h, w]`.
        contrast: float32 `[h, w]`, gray levels.
    """
    if min(ink.shape) < 2 * _LEAST_SIDE:
        return 0.0
    levels = [0.0]
    for mask, values in ((ink, contrast), (ink.T, contrast.T)):
        ruled = np.count_nonzero(mask, axis=1) >= _RULED * mask.shape[1]
        count = np.count_nonzero(ruled[1:] & ~ruled[:-1]) + ruled[0]
        if count > 2 and np.count_nonzero(ruled) <= _RULES * len(ruled):
            levels.append(float(np.median(values[ruled])))
    return max(levels)


def _line(ink: Mask, straight: float) -> Line | None:
    """Finds the line along the top, where the first ink of most columns lies on a straight line."""
    height, width = ink.shape
    band = ink[: max(2, round(_DEEPEST * height))]
    seen = band.any(axis=0)
    if np.count_nonzero(seen) < straight * width:
        return None
    first = band.argmax(axis=0)
    columns = np.flatnonzero(seen)
    third = max(1, len(columns) // 3)
    (x0, y0), (x1, y1) = (
        (float(np.median(part)), float(np.median(first[part]))) for part in (columns[:third], columns[-third:])
    )
    top = y0 + (np.arange(width) - x0) * (y1 - y0) / max(1.0, x1 - x0)
    thickest = max(1.0, _THICKEST * (height * width) ** 0.5)
    tall = ink[: band.shape[0] + int(thickest) + 2]
    below = tall | (np.arange(len(tall))[:, None] < first)
    thickness = np.where(below.all(axis=0), len(tall), below.argmin(axis=0)) - first
    on = seen & (np.abs(first - top) <= max(1.5, 0.015 * height))
    if not on.any():
        return None
    usual = float(np.median(thickness[on]))
    on &= np.abs(thickness - usual) <= max(1.5, 0.3 * usual)
    if usual > thickest or np.count_nonzero(on) < straight * width:
        return None
    ends = np.flatnonzero(on)[[0, -1]]
    if ends[0] > _ENDS * width or ends[1] < (1 - _ENDS) * width - 1:
        return None
    return Line(top=top, thickness=usual, straight=float(on.mean()))


def _erase(ink: Mask, line: Line) -> None:
    """Erases a line along the top, in place, but not where a stroke crosses it."""
    columns = np.arange(ink.shape[1])
    outer, inner = (
        np.clip(np.rint(edge).astype(np.int64), -1, len(ink)) for edge in (line.top - 2, line.top + line.thickness + 1)
    )
    framed = np.pad(ink, ((1, 1), (0, 0)))
    free = ~framed[inner + 1, columns] & ~framed[outer + 1, columns]
    depth = max(0, int(inner.max()))
    y = np.arange(depth)[:, None]
    ink[:depth] &= ~((y > outer) & (y < inner) & free)
