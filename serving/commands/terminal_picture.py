"""An image drawn with characters, for a terminal that shows Unicode."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Uint8Array = npt.NDArray[np.uint8]


def terminal_picture(image: Uint8Array) -> list[str]:
    """Draws an image's bright part for a terminal that shows Unicode: a character is one column and two rows.

    Args:
        image: uint8 `[h, w, c]`; colours are averaged.

    Returns:
        Lines of equal length, as many as half the height of what is bright; none where nothing is.
    """
    bright = image.mean(axis=2) >= 96
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if rows.size == 0:
        return []
    bright = bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bright = np.pad(bright, ((0, bright.shape[0] % 2), (0, 0)))
    blocks = np.array([" ", "▄", "▀", "█"])
    return ["".join(line) for line in blocks[bright[0::2] * 2 + bright[1::2] * 1]]
