"""Images drawn with characters, for terminals."""

from __future__ import annotations

import shutil

import numpy as np
import numpy.typing as npt

# Two rows of an image in one: neither is bright, the lower, the upper, both.
_BLOCKS = " ▄▀█"
_ASCII = " .'#"


def terminal_picture(image: npt.NDArray[np.uint8], encoding: str = "utf-8") -> list[str]:
    """Draws the bright part of an image with characters, each of one column and two rows.

    Args:
        image: uint8 `[height, width, channels]`; channels are averaged.
        encoding: Of the terminal. Unicode blocks, or ASCII if it has no blocks.

    Returns:
        Lines of equal length, half as many as the bright part has rows; none if nothing is bright.
    """
    bright = image.mean(axis=2) >= 96
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    if rows.size == 0:
        return []
    bright = bright[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    bright = np.pad(bright, ((0, bright.shape[0] % 2), (0, 0)))
    characters = np.array(list(_BLOCKS if _can_encode(_BLOCKS, encoding) else _ASCII))
    return ["".join(line) for line in characters[bright[0::2] * 2 + bright[1::2] * 1]]


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def side_by_side(cells: list[list[str]], gap: int = 3) -> str:
    """Lays cells out in rows as wide as the terminal, each row aligned at the bottom."""
    text: list[str] = []
    row: list[list[str]] = []
    used = 0
    for cell in cells:
        width = max(map(len, cell))
        if row and used + width > shutil.get_terminal_size().columns:
            text += _joined(row, gap)
            row, used = [], 0
        row.append(cell)
        used += width + gap
    return "\n".join([*text, *_joined(row, gap)])


def _joined(cells: list[list[str]], gap: int) -> list[str]:
    height = max(map(len, cells))
    padded = []
    for cell in cells:
        width = max(map(len, cell))
        padded.append([" " * width] * (height - len(cell)) + [line.ljust(width) for line in cell])
    return ["", *((" " * gap).join(parts).rstrip() for parts in zip(*padded, strict=True))]
