"""Finds a photo that was pasted on a plain page."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.images.paper import find_levels

Uint8Array = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

# A page with a photo has at least this many pixels on its smaller side.
_SMALLEST = 40
# Gray levels in which a page may differ, after JPEG for instance.
_PLAIN = 8
# A photo has at least this share of the sides of its page, covers this share of the box around it, and leaves less than
# this share of what differs from the page outside.
_LEAST_SIDE, _COVERED, _OUTSIDE = 0.4, 0.75, 0.02
# The rim of the box belongs to the photo, except for this share. A digit's box has mostly paper there.
_RIM = 0.1
# The ink in a photo differs from its paper by at least this many gray levels.
_CONTRAST = 16


def find_photo(gray: Uint8Array) -> tuple[slice, slice] | None:
    """Finds a photo with paper of its own on a page of one gray level, such as a square that it was padded to.

    Args:
        gray: uint8 `[h, w]`.

    Returns:
        Rows and columns of the photo, without its rim; None if there is none.
    """
    if min(gray.shape) < _SMALLEST:
        return None
    corners = gray[np.ix_([0, 1, -2, -1], [0, 1, -2, -1])].astype(np.int16)
    if np.ptp(corners) > _PLAIN:
        return None
    level = int(np.median(corners))
    other = (gray < level - _PLAIN) | (gray > level + _PLAIN)
    rows, columns = np.flatnonzero(other.mean(axis=1) > 0.3), np.flatnonzero(other.mean(axis=0) > 0.3)
    if not rows.size or not columns.size:
        return None
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    if not _is_filled(other, box):
        return None
    inset = max(2, round(0.01 * max(gray.shape)))
    found = slice(box[0].start + inset, box[0].stop - inset), slice(box[1].start + inset, box[1].stop - inset)
    return found if _has_own_paper(gray[found], level) else None


def _is_filled(other: Mask, box: tuple[slice, slice]) -> bool:
    """Returns whether what differs from the page is a large rectangle, and has something of the page beside it."""
    part = other[box]
    if part.shape == other.shape or any(
        own < _LEAST_SIDE * whole for own, whole in zip(part.shape, other.shape, strict=True)
    ):
        return False
    rim = np.concatenate([part[1], part[-2], part[:, 1], part[:, -2]]).mean()
    return bool(part.mean() >= _COVERED and rim >= 1 - _RIM and part.sum() >= (1 - _OUTSIDE) * other.sum())


def _has_own_paper(inside: Uint8Array, page: int) -> bool:
    """Returns whether a rectangle has ink on paper that differs from the page around it."""
    levels = find_levels(inside)
    dark = inside <= levels.threshold
    paper = levels.medians[0 if np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]]).mean() > 0.5 else 1]
    return levels.contrast >= _CONTRAST and abs(paper - page) >= _PLAIN
