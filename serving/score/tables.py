"""Tables whose rows are images: Parquet or CSV, with a column of paths or of the images themselves."""

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

from serving.score.batch import Batch, BatchLimits, Encoded, Item, Unreadable, UnusableInput, gather
from serving.score.source import Source, Survey, file_fingerprint, text_of

_IMAGE_COLUMNS, _PATH_COLUMNS = ("image",), ("path", "file", "file_name")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns of a table mean what.

    Attributes:
        image: Encoded images: binary in Parquet, base64 in CSV; `image` where there is such a column.
        path: Paths of image files, relative to the table's folder; `path`, `file` or `file_name` where there is one.
        id: Names of the images in the output; by default the table's name and the row's number.
        label: True labels, by name or number.
    """

    image: str | None = None
    path: str | None = None
    id: str | None = None
    label: str | None = None


class Table(Source):
    """A table; what reads its rows is a sub-class's.

    Args:
        path: The file.
        columns: Which columns mean what.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path = path
        self._columns = columns

    @abstractmethod
    def _names(self) -> list[str]:
        """Names of all columns."""

    @abstractmethod
    def _count(self) -> int:
        """Number of rows."""

    @abstractmethod
    def _rows(self, start: int, columns: list[str]) -> Iterator[Sequence[Any]]:
        """The given columns of the rows from `start` on."""

    def survey(self) -> Survey:
        """See `Source.survey`."""
        fingerprint = file_fingerprint(self._path)
        self._meant()
        count = self._count()
        if not count:
            raise UnusableInput(f"{self._path}: no rows in it")
        return Survey(count=count, fingerprint=fingerprint)

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        return gather(self._items(start), limits)

    def _items(self, start: int) -> Iterator[Item]:
        column, is_path = self._meant()
        wanted = [column, *(name for name in (self._columns.id, self._columns.label) if name is not None)]
        for number, row in enumerate(self._rows(start, wanted), start):
            others = list(row[1:])
            name = others.pop(0) if self._columns.id is not None else f"{self._path}:{number}"
            label = others.pop(0) if self._columns.label is not None else None
            yield Item(
                id=text_of(str(name)),
                image=self._path_in(row[0]) if is_path else _content(row[0]),
                expected=None if label in (None, "") else str(label),
            )

    def _path_in(self, value: Any) -> Encoded:
        if not isinstance(value, str) or not value or "\0" in value:
            return Unreadable(reason="no path in its row")
        return self._path.parent / value

    def _meant(self) -> tuple[str, bool]:
        """The column with the images, and whether it holds paths."""
        names = self._names()
        for wanted in (self._columns.image, self._columns.path, self._columns.id, self._columns.label):
            if wanted is not None and wanted not in names:
                raise UnusableInput(f"{self._path}: no column {wanted!r}; there are {', '.join(names)}")
        if self._columns.image is not None:
            return self._columns.image, False
        if self._columns.path is not None:
            return self._columns.path, True
        for candidates, is_path in ((_IMAGE_COLUMNS, False), (_PATH_COLUMNS, True)):
            for name in candidates:
                if name in names:
                    return name, is_path
        raise UnusableInput(
            f"{self._path}: which of the columns {', '.join(names)} holds the images? "
            "--image-column or --path-column names it"
        )


class CsvTable(Table):
    """A CSV file in UTF-8 with a line of names."""

    def _names(self) -> list[str]:
        return next(self._lines(), [])

    def _count(self) -> int:
        return sum(1 for _ in self._lines()) - 1

    def _rows(self, start: int, columns: list[str]) -> Iterator[Sequence[Any]]:
        names = self._names()
        places = [names.index(name) for name in columns]
        for line in itertools.islice(self._lines(), 1 + start, None):
            yield [line[place] if place < len(line) else None for place in places]

    def _lines(self) -> Iterator[list[str]]:
        csv.field_size_limit(sys.maxsize)  # an image is longer than the 128 KiB that csv takes by default
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                yield from (line for line in csv.reader(file) if line)
        except (csv.Error, UnicodeDecodeError) as error:
            raise UnusableInput(f"{self._path}: no CSV in UTF-8 ({error})") from error
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
            # Whole row groups before the start are not even read.
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
            raise UnusableInput(f"{self._path}: {error.strerror or 'no Parquet file'}") from error
        except pyarrow.ArrowException as error:
            raise UnusableInput(f"{self._path}: no Parquet file") from error


def _content(value: Any) -> Encoded:
    """The bytes of an image: as they are, in a struct with `bytes` as data set libraries write it, or as base64."""
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return Unreadable(reason="neither bytes nor base64 in its row")
    return value if isinstance(value, bytes) and value else Unreadable(reason="no image in its row")
