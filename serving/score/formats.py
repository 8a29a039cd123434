"""Output formats: CSV, JSON lines and Parquet, written in parts and joined at the end."""

from __future__ import annotations

import csv
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

# Digits of real numbers in text: float32 has seven, and the last is noise from the summation.
_DIGITS = 6
# Rows of a row group of Parquet: the same bytes come out wherever parts and shards end.
_GROUP_ROWS = 65_536

Columns = list[tuple[str, str]]


class PartWriter(ABC):
    """Writes one part of the output."""

    @abstractmethod
    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """Appends rows, which are given as columns."""

    @abstractmethod
    def close(self) -> None:
        """Completes the file."""


class CsvPart(PartWriter):
    """Rows of a CSV file, without the header line."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._real = [kind == "real" for _, kind in columns]

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """See `PartWriter.write`."""
        texts = [
            [None if value is None else f"{value:.{_DIGITS}f}" for value in column] if real else column
            for column, real in zip(values, self._real, strict=True)
        ]
        self._writer.writerows(zip(*texts, strict=True))

    def close(self) -> None:
        """See `PartWriter.close`."""
        self._file.close()


class JsonPart(PartWriter):
    """JSON lines: one object per line."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._names = [name for name, _ in columns]
        self._real = [kind == "real" for _, kind in columns]

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """See `PartWriter.write`."""
        rounded = [
            [None if value is None else round(value, _DIGITS) for value in column] if real else column
            for column, real in zip(values, self._real, strict=True)
        ]
        encode = json.JSONEncoder(ensure_ascii=False).encode
        self._file.writelines(
            encode(dict(zip(self._names, row, strict=True))) + "\n" for row in zip(*rounded, strict=True)
        )

    def close(self) -> None:
        """See `PartWriter.close`."""
        self._file.close()


class ParquetPart(PartWriter):
    """A Parquet file; needs pyarrow."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow
        import pyarrow.parquet

        self._pyarrow = pyarrow
        self._path = path
        self._schema = parquet_schema(columns)
        self._blocks: list[Any] = []

    def write(self, values: Sequence[Sequence[Any]]) -> None:
        """See `PartWriter.write`."""
        arrays = [
            self._pyarrow.array(column, type=kind) for column, kind in zip(values, self._schema.types, strict=True)
        ]
        self._blocks.append(self._pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """See `PartWriter.close`."""
        table = self._pyarrow.Table.from_batches(self._blocks, schema=self._schema)
        self._pyarrow.parquet.write_table(table, self._path)


def parquet_schema(columns: Columns) -> Any:
    """Returns the Parquet schema: string, int64 and float32."""
    import pyarrow

    kinds = {"text": pyarrow.string(), "integer": pyarrow.int64(), "real": pyarrow.float32()}
    return pyarrow.schema([(name, kinds[kind]) for name, kind in columns])


_WRITERS: dict[str, type[CsvPart] | type[JsonPart] | type[ParquetPart]] = {
    ".csv": CsvPart,
    ".jsonl": JsonPart,
    ".parquet": ParquetPart,
}
SUFFIXES = tuple(_WRITERS)


def open_part(path: Path, suffix: str, columns: Columns) -> PartWriter:
    """Starts a part in the format of a file suffix."""
    return _WRITERS[suffix](path, columns)


def join_parts(
    parts: Sequence[Path], path: Path, suffix: str, columns: Columns, *, are_whole_files: bool = False
) -> None:
    """Joins all parts, in order, into one file. The bytes do not depend on where parts end.

    Args:
        parts: Files that `open_part` wrote, or that this function did.
        path: The file to write.
        suffix: Its format.
        columns: Its columns.
        are_whole_files: Whether this function wrote the parts.
    """
    if suffix == ".parquet":
        import pyarrow.parquet

        with pyarrow.parquet.ParquetWriter(path, parquet_schema(columns)) as writer:
            for group in _row_groups(parts):
                writer.write_table(group)
        return
    writer = open_part(path, suffix, [(name, "text") for name, _ in columns])
    if suffix == ".csv":
        writer.write([[name] for name, _ in columns])  # the header line
    writer.close()
    header = path.stat().st_size
    with path.open("ab") as joined:
        for part in parts:
            with part.open("rb") as file:
                file.seek(header if are_whole_files else 0)
                shutil.copyfileobj(file, joined, 1 << 20)


def _row_groups(parts: Sequence[Path]) -> Iterator[Any]:
    """Yields the rows of Parquet files as tables of one row group each; the last one may be smaller.

    Each is in one piece: where pieces end, pages do too.
    """
    import pyarrow.parquet

    waiting: list[Any] = []
    for part in parts:
        with pyarrow.parquet.ParquetFile(part) as file:
            for block in file.iter_batches(_GROUP_ROWS):
                missing = _GROUP_ROWS - sum(map(len, waiting))
                waiting.append(block.slice(0, missing))
                if len(block) >= missing:
                    yield pyarrow.Table.from_batches(waiting).combine_chunks()
                    waiting = [block.slice(missing)]
    if any(map(len, waiting)):
        yield pyarrow.Table.from_batches(waiting).combine_chunks()
