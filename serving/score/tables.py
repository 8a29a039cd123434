"""Tables whose rows are images: Parquet or CSV, with a column of paths or of the images themselves.

The csv module and pyarrow read the tables; only the meaning of the columns is ours.
"""

from __future__ import annotations

import base64
import binascii
import csv
import itertools
import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.score.batch import Batch, BatchLimits, Encoded, Item, Unreadable, UnusableInput, make_batches
from serving.score.source import Source, Survey, file_fingerprint, path_text

# Names of columns that are used without being asked for, each with whether it contains paths.
_DEFAULT_COLUMNS = {"image": False, "path": True, "file": True, "file_name": True}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a table mean.

    Attributes:
        image: Encoded images: binary in Parquet, base64 in CSV; by default `image`, if there is such a column.
        path: Paths of image files, relative to the table's folder; by default `path`, `file` or `file_name`.
        id: Names of the images in the output; by default the table's name and the row number.
        label: True labels, as names or numbers.
    """

    image: str | None = None
    path: str | None = None
    id: str | None = None
    label: str | None = None


class Table(Source):
    """A table; sub-classes read its rows.

    Args:
        path: The file.
        columns: What its columns mean.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns

    @abstractmethod
    def _names(self) -> list[str]:
        """Returns the names of all columns."""

    @abstractmethod
    def _count(self) -> int:
        """Returns the number of rows."""

    @abstractmethod
    def _rows(self, start: int, columns: list[str]) -> Iterator[Sequence[Any]]:
        """Yields the given columns of the rows from `start` on."""

    def survey(self) -> Survey:
        """See `Source.survey`."""
        fingerprint = file_fingerprint(self._path)
        self._image_column()
        count = self._count()
        if not count:
            raise UnusableInput(f"{self._path}: has no rows")
        return Survey(count=count, fingerprint=fingerprint)

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        return make_batches(self._items(start), limits)

    def _items(self, start: int) -> Iterator[Item]:
        column, is_path = self._image_column()
        wanted = [column, *(name for name in (self._columns.id, self._columns.label) if name is not None)]
        for number, row in enumerate(self._rows(start, wanted), start):
            others = list(row[1:])
            name = others.pop(0) if self._columns.id is not None else f"{self._path}:{number}"
            label = others.pop(0) if self._columns.label is not None else None
            yield Item(
                id=path_text(str(name)),
                image=self._path_in(row[0]) if is_path else _content(row[0]),
                expected=None if label in (None, "") else str(label),
            )

    def _path_in(self, value: Any) -> Encoded:
        if not isinstance(value, str) or not value or "\0" in value:
            return Unreadable(reason="its row has no path")
        return self._path.parent / value

    def _image_column(self) -> tuple[str, bool]:
        """Returns the column with the images, and whether it contains paths."""
        names = self._names()
        for wanted in (self._columns.image, self._columns.path, self._columns.id, self._columns.label):
            if wanted is not None and wanted not in names:
                raise UnusableInput(f"{self._path}: has no column {wanted!r}, only {', '.join(names)}")
        if self._columns.image is not None:
            return self._columns.image, False
        if self._columns.path is not None:
            return self._columns.path, True
        for name, is_path in _DEFAULT_COLUMNS.items():
            if name in names:
                return name, is_path
        raise UnusableInput(
            f"{self._path}: which of the columns {', '.join(names)} has the images? "
            "Name it with --image-column or --path-column"
        )


class CsvTable(Table):
    """A CSV file in UTF-8 with a header line."""

    def _names(self) -> list[str]:
        return next(self._lines(), [])

    def _count(self) -> int:
        return sum(1 for _ in self._lines()) - 1

    def _rows(self, start: int, columns: list[str]) -> Iterator[Sequence[Any]]:
        names = self._names()
        indices = [names.index(name) for name in columns]
        for line in itertools.islice(self._lines(), 1 + start, None):
            yield [line[index] if index < len(line) else None for index in indices]

    def _lines(self) -> Iterator[list[str]]:
        csv.field_size_limit(sys.maxsize)  # an image may be longer than the default of 128 KiB
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield from (line for line in csv.reader(file) if line)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnusableInput(f"{self._path}: not CSV in UTF-8 ({error})") from error
        except OSError as error:
            raise UnusableInput(f"{self._path}: {error.strerror}") from error


class ParquetTable(Table):
    """A Parquet file; needs pyarrow."""

    def _names(self) -> list[str]:
        return list(self._file().schema_arrow.names)

    def _count(self) -> int:
        return int(self._file().metadata.num_rows)

    def _rows(self, start: int, columns: list[str]) -> Iterator[Sequence[Any]]:
        import pyarrow

        file = self._file()
        try:
            # Row groups that end before the start are not read.
            groups: list[int] = []
            skipped = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if not groups and skipped + rows <= start:
                    skipped += rows
                else:
                    groups.append(group)
            for block in file.iter_batches(batch_size=256, row_groups=groups, columns=list(dict.fromkeys(columns))):
                first = min(max(0, start - skipped), len(block))
                skipped += len(block)
                part = block.slice(first)
                yield from zip(*(part.column(name).to_pylist() for name in columns), strict=True)
        except (pyarrow.ArrowException, OSError) as error:
            raise UnusableInput(f"{self._path}: damaged ({str(error).splitlines()[0]})") from error

    def _file(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self._path)
        except OSError as error:
            raise UnusableInput(f"{self._path}: {error.strerror or 'not a Parquet file'}") from error
        except pyarrow.ArrowException as error:
            raise UnusableInput(f"{self._path}: not a Parquet file") from error


def _content(value: Any) -> Encoded:
    """Returns an image from bytes, from base64, or from a struct with `bytes` as data set libraries write it."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return Unreadable(reason="its row has neither bytes nor base64")
    return value if isinstance(value, bytes) and value else Unreadable(reason="its row has no image")
