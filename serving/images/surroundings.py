"""Finds a photo that was pasted on a plain page."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from serving.images.paper import find_levels

Uint8Array = npt.NDArray[np.uint8]

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
    height, width = gray.shape
    if min(height, width) < _SMALLEST:
        return None
    corners = gray[np.ix_([0, 1, -2, -1], [0, 1, -2, -1])].astype(np.int16)
    if np.ptp(corners) > _PLAIN:
        return None
    level = int(np.median(corners))
    other = (gray < level - _PLAIN) | (gray > level + _PLAIN)
    rows, columns = np.flatnonzero(other.mean(axis=1) > 0.3), np.flatnonzero(other.mean(axis=0) > 0.3)
    if not rows.size or not columns.size:
        return None
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if (bottom - top, right - left) == gray.shape or bottom - top < _LEAST_SIDE * height:
        return None
    box = other[top:bottom, left:right]
    if box.sum() < (1 - _OUTSIDE) * other.sum():
        return None
    rim = np.concatenate([box[1], box[-2], box[:, 1], box[:, -2]])
    if right - left < _LEAST_SIDE * width or box.mean() < _COVERED or rim.mean() < 1 - _RIM:
        return None
    inset = max(2, round(0.01 * max(box.shape)))
    found = slice(top + inset, bottom - inset), slice(left + inset, right - inset)
    inside = gray[found]
    levels = find_levels(inside)
    dark = inside <= levels.threshold
    edge = np.concatenate([dark[0], dark[-1], dark[:, 0], dark[:, -1]]).mean()
    paper = levels.medians[0 if edge > 0.5 else 1]
    is_photo = levels.contrast >= _CONTRAST and abs(paper - level) >= _PLAIN and 0 < dark.mean() < 1
    return found if is_photo else None
