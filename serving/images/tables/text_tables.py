"""Tables as text: delimited (CSV, TSV) and JSON lines, in UTF-8 or UTF-16, plain or compressed.

The csv and json modules read them. csv.Sniffer is not used: it looks at the letters of base64 too and takes one of them
for the delimiter.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import json
import lzma
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

from serving.images.tables.table import Table, UnusableTable

_DELIMITERS = (",", ";", "\t", "|")
_COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
# Fewer columns of numbers without a header are not pixels.
_LEAST_PIXELS = 64
# Rows of a table without a header that are looked at to find its label.
_PEEKED = 1000


@dataclass(frozen=True, kw_only=True)
class _Form:
    """What the first line says.

    Attributes:
        delimiter: What separates the columns.
        names: The names of the columns.
        skipped: Rows before the first one with data.
    """

    delimiter: str
    names: tuple[str, ...]
    skipped: int


class DelimitedTable(Table):
    """A table as CSV, or with semicolons, tabs or bars as delimiters.

    The first line has the names of the columns. If it has only numbers, as many as a square image has pixels, or one
    more, there are no names: the columns are then `pixel0` and so on, with `label` as the first if there is one more.
    """

    @property
    def names(self) -> Sequence[str]:
        """See `Table.names`."""
        return self._form.names

    def count(self) -> int:
        """See `Table.count`."""
        return sum(1 for _ in self._lines())

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """See `Table.rows`."""
        positions = {name: index for index, name in reversed([*enumerate(self.names)])}
        indices = [positions[name] for name in columns]
        pick = itemgetter(*indices) if len(indices) > 1 else lambda line: [line[index] for index in indices]
        for number, line in enumerate(itertools.islice(self._lines(), start, None), start):
            if len(line) > len(self.names) and any(line[len(self.names) :]):
                raise UnusableTable(
                    f"{self.path}: row {number} has {len(line)} cells, but there are {len(self.names)} columns; "
                    "name every column, also that of row names"
                )
            try:
                yield pick(line)
            except IndexError:
                yield [line[index] if index < len(line) else None for index in indices]

    @cached_property
    def _form(self) -> _Form:
        with _text(self.path) as file:
            first = next((line for line in file if line.strip()), "")
        if found := re.fullmatch(r"sep=(.)", first.strip("\r\n")):  # a hint to Excel, which other programs write too
            names = next(itertools.islice(self._records(found[1]), 1, None), [])
            return _Form(delimiter=found[1], names=tuple(name.strip() for name in names), skipped=2)
        delimiter = max(_DELIMITERS, key=lambda each: len(next(csv.reader([first], delimiter=each), [])))
        names = [name.strip() for name in next(self._records(delimiter), [])]
        if _are_pixels(names):
            return _Form(delimiter=delimiter, names=self._names_of_pixels(delimiter, len(names)), skipped=0)
        return _Form(delimiter=delimiter, names=tuple(names), skipped=1)

    def _names_of_pixels(self, delimiter: str, count: int) -> tuple[str, ...]:
        """Names the columns of a table without a header. The label is first, or last where the corners say so."""
        square = math.isqrt(count) ** 2 == count
        pixels = [f"pixel{number}" for number in range(count - (not square))]
        if square:
            return tuple(pixels)
        rows = [row for row in itertools.islice(self._records(delimiter), _PEEKED) if len(row) == count]
        # The corners of an image are background, and labels differ from row to row.
        label_is_last = len({row[0] for row in rows}) == 1 and len({row[-1] for row in rows}) > 1
        return (*pixels, "label") if label_is_last else ("label", *pixels)

    def _lines(self) -> Iterator[list[str]]:
        return itertools.islice(self._records(self._form.delimiter), self._form.skipped, None)

    def _records(self, delimiter: str) -> Iterator[list[str]]:
        """Yields all rows that have a cell with content: spreadsheets leave empty ones behind."""
        csv.field_size_limit(sys.maxsize)  # an image may be longer than the default of 128 KiB
        with _text(self.path) as file:
            try:
                yield from (line for line in csv.reader(file, delimiter=delimiter, skipinitialspace=True) if any(line))
            except csv.Error as error:
                raise UnusableTable(f"{self.path}: not CSV ({error})") from error


class JsonLinesTable(Table):
    """A table as JSON: an object for each row, on a line of its own or in one list. The first names the columns."""

    @cached_property
    def names(self) -> Sequence[str]:
        """See `Table.names`."""
        return list(next(self._records(), {}))

    def count(self) -> int:
        """See `Table.count`."""
        return sum(1 for _ in self._records())

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """See `Table.rows`."""
        for record in itertools.islice(self._records(), start, None):
            yield [record.get(name) for name in columns]

    def _records(self) -> Iterator[dict[str, Any]]:
        with _text(self.path) as file:
            number = 0
            try:
                if file.read(1) == "[":
                    file.seek(0)
                    records = json.load(file)
                else:
                    file.seek(0)
                    records = (json.loads(line) for line in file if line.strip())
                for number, record in enumerate(records, 1):
                    if not isinstance(record, dict):
                        raise UnusableTable(f"{self.path}: row {number} is not a JSON object")
                    yield record
            except (ValueError, RecursionError) as error:
                raise UnusableTable(f"{self.path}: not JSON lines after row {number}") from error


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """Opens a file as text, decompressed; without the byte order mark."""
    try:
        with path.open("rb") as raw:
            start = raw.read(6)
        opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), open)
        with opener(path, "rb") as plain:
            encoding = "utf-16" if plain.read(2) in _UTF_16 else "utf-8-sig"
        with opener(path, "rt", encoding=encoding, newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise UnusableTable(f"{path}: not text in UTF-8; save it as UTF-8 ({error.reason})") from error
    except _DAMAGED as error:
        raise UnusableTable(f"{path}: truncated or damaged compressed file") from error
    except OSError as error:
        raise UnusableTable(f"{path}: {error.strerror or 'damaged compressed file'}") from error


def _are_pixels(cells: Sequence[str]) -> bool:
    """Whether the first line is a row of pixels, with or without a label, rather than names such as 0, 1, 2."""
    side = math.isqrt(len(cells))
    if len(cells) < _LEAST_PIXELS or len(cells) - side * side not in (0, 1):
        return False
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    return numbers != [numbers[0] + number for number in range(len(numbers))]
