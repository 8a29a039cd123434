"""Tables whose rows are images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from serving.errors import InvalidImage
from serving.images.pixel_arrays import ImageShape
from serving.images.tables.cells import class_name, encoded_image, label_text
from serving.images.tables.columns import Columns, ImageColumns, find_images
from serving.images.tables.pixel_table import PixelTable, holds_pixels
from serving.images.tables.table import Table
from serving.score.batch import Batch, BatchLimits, Encoded, Item, Unreadable, UnusableInput, make_batches
from serving.score.source import Source, Survey, copy_fingerprint, file_fingerprint, path_text


class TableSource(Source):
    """A table with a column of images or paths, or with raw pixels.

    Args:
        table: The table.
        columns: What its columns mean.
    """

    def __init__(self, table: Table, columns: Columns) -> None:
        self._table = table
        self._columns = columns
        self._pixels: PixelTable | None = None
        self._shape: ImageShape | None = None

    def survey(self) -> Survey:
        """See `Source.survey`."""
        fingerprint = file_fingerprint(self._table.path)
        images = find_images(self._table, self._columns)
        if holds_pixels(self._table, images):
            self._pixels = PixelTable(self._table, images)
        count = self._pixels.survey() if self._pixels else self._table.count()
        if not count:
            raise UnusableInput(f"{self._table.path}: has no rows")
        return Survey(count=count, fingerprint=fingerprint, copies=copy_fingerprint(self._table.path))

    def check_shape(self, shape: ImageShape) -> None:
        """See `Source.check_shape`."""
        self._shape = shape
        if self._pixels:
            self._pixels.layout(shape)

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`; call `survey` and `check_shape` first."""
        if self._pixels is None:
            return make_batches(self._items(start), limits)
        return self._pixel_batches(self._pixels, start, limits.rows)

    def _pixel_batches(self, pixels: PixelTable, start: int, rows: int) -> Iterator[Batch]:
        named = self._named(start, ())
        for images, errors in pixels.images(start, rows, pixels.layout(self._shape)):
            ids, expected, _ = zip(*(next(named) for _ in images), strict=True)
            known = list(expected) if any(label is not None for label in expected) else None
            yield Batch(ids=list(ids), images=images, expected=known, errors=errors)

    def _items(self, start: int) -> Iterator[Item]:
        images = find_images(self._table, self._columns)
        for name, expected, (cell,) in self._named(start, images.names):
            yield Item(id=name, image=self._encoded(cell, images), expected=expected)

    def _encoded(self, cell: object, images: ImageColumns) -> Encoded:
        try:
            return encoded_image(cell, self._table.path.parent, is_path=images.are_paths)
        except InvalidImage as error:
            return Unreadable(reason=str(error))

    def _named(self, start: int, columns: tuple[str, ...]) -> Iterator[tuple[str, str | None, tuple[object, ...]]]:
        """Yields name, true label and the cells of the given columns, row by row."""
        names = self._table.class_names().get(self._columns.label or "", ())
        wanted = [name for name in (self._columns.id, self._columns.label) if name is not None]
        columns = (*wanted, *columns)
        rows = self._table.rows(start, columns) if columns else itertools.repeat(())
        for number, row in enumerate(rows, start):
            others = list(row)
            name = others.pop(0) if self._columns.id is not None else f"{self._table.path}:{number}"
            label = label_text(others.pop(0)) if self._columns.label is not None else None
            expected = None if label is None else class_name(label, names)
            yield path_text(label_text(name) or ""), expected, tuple(others)
