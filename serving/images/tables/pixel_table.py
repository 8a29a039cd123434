"""Raw pixels in a table: one column per pixel, or one list of pixels per row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import InvalidImage
from serving.images.pixel_arrays import ImageShape, Layout, PixelScale, Uint8Array
from serving.images.tables.cells import pixels
from serving.images.tables.columns import ImageColumns
from serving.images.tables.table import Table, UnusableTable

_BLOCK_ROWS = 1024
# Cells of text in memory at a time, some 60 bytes each.
_BLOCK_CELLS = 1 << 20
# Rows whose cell may be empty before the first one that shows what the column holds.
_PEEKED = 1000

# Values `[m, ...]` of m rows, and by index what is wrong with those that are zero because they can't be read.
Block = tuple[npt.NDArray[Any], dict[int, str]]


class PixelTable:
    """The images of a table of raw pixels. Call `survey` first: what the numbers mean is decided by all of them.

    Args:
        table: The table.
        columns: Where its images are; `holds_pixels` is true of them.
    """

    def __init__(self, table: Table, columns: ImageColumns) -> None:
        self._table = table
        self._columns = columns
        self._scale = PixelScale()
        self._stored: tuple[int, ...] = (len(columns.names),)

    def survey(self) -> int:
        """Looks at all pixels, and returns the number of rows.

        Raises:
            UnusableTable: The numbers can't be pixels, or leave a doubt.
        """
        if not self._columns.are_pixels:
            first = _first_pixels(self._table, self._columns.names[0])
            self._stored = () if first is None else first.shape
        count = 0
        try:
            for values, errors in self._blocks(0, _BLOCK_ROWS):
                self._scale.look_at(np.delete(values, list(errors), axis=0) if errors else values)
                count += len(values)
            self._scale.check()
        except InvalidImage as error:
            raise UnusableTable(f"{self._table.path}: {error}") from error
        return count

    def layout(self, shape: ImageShape | None = None) -> Layout:
        """Returns how a row holds an image.

        Args:
            shape: Height, width and channels that the images must have; by default rows of values are square.

        Raises:
            UnusableTable: A row can't hold such an image.
        """
        try:
            return Layout.of((2, *self._stored), shape, may_be_single=False)  # any number of rows
        except InvalidImage as error:
            raise UnusableTable(f"{self._table.path}: {error}") from error

    def images(self, start: int, rows: int, layout: Layout) -> Iterator[tuple[Uint8Array, dict[int, str]]]:
        """Yields blocks of up to `rows` images from row `start` on.

        Yields:
            uint8 `[m, height, width, channels]`, and by index what is wrong with those that can't be read.
        """
        for values, errors in self._blocks(start, rows):
            yield np.ascontiguousarray(layout.arrange(self._scale.to_bytes(values))), errors

    def _blocks(self, start: int, rows: int) -> Iterator[Block]:
        rows = min(rows, max(1, _BLOCK_CELLS // max(1, math.prod(self._stored))))
        if not self._columns.are_pixels:
            cells = self._table.rows(start, self._columns.names)
            while block := list(itertools.islice(cells, rows)):
                yield self._stacked([row[0] for row in block])
            return
        for numbers in self._table.numbers(start, self._columns.names, rows):
            errors: dict[int, str] = {}
            if numbers.dtype.kind == "f" and len(bad := np.flatnonzero(np.isnan(numbers).any(axis=1))):
                numbers[bad] = 0
                errors = dict.fromkeys(bad.tolist(), "its row has a pixel that is not a number")
            yield numbers, errors

    def _stacked(self, cells: list[Any]) -> Block:
        errors: dict[int, str] = {}
        found = []
        for index, cell in enumerate(cells):
            values = pixels(cell)
            if values is None or values.shape != self._stored or np.isnan(np.sum(values)):
                errors[index] = "its row has no list of pixels" if values is None else "its row has other pixels"
                values = np.zeros(self._stored, np.uint8)
            # Beside numbers, a true would become 1, which is almost black.
            found.append(values.astype(np.uint8) * np.uint8(255) if values.dtype == np.bool_ else values)
        return np.stack(found), errors


def holds_pixels(table: Table, columns: ImageColumns) -> bool:
    """Whether the columns hold raw pixels, rather than encoded images or paths."""
    return columns.are_pixels or (not columns.are_paths and _first_pixels(table, columns.names[0]) is not None)


def _first_pixels(table: Table, column: str) -> npt.NDArray[Any] | None:
    """Returns the first cell that is not empty as an array, None if it is not a list of numbers."""
    for row in itertools.islice(table.rows(0, [column]), _PEEKED):
        if row[0] is not None and not (isinstance(row[0], str) and not row[0]):
            return pixels(row[0])
    return None
