"""Parquet tables; needs pyarrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from serving.images.tables.table import Numbers, Table, UnusableTable

_BLOCK_ROWS = 256


class ParquetTable(Table):
    """A Parquet file, also as Hugging Face's `datasets` writes it."""

    @property
    def names(self) -> Sequence[str]:
        """See `Table.names`."""
        try:
            names: list[str] = self._file().schema_arrow.names
        except UnicodeDecodeError as error:
            raise UnusableTable(f"{self.path}: damaged (names of columns that are not text)") from error
        return names

    def count(self) -> int:
        """See `Table.count`."""
        metadata = self._file().metadata
        return sum(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))

    def rows(self, start: int, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
        """See `Table.rows`; lists of numbers that are all of one size are arrays."""
        import pyarrow

        for block in self._blocks(start, columns, _BLOCK_ROWS):
            try:
                values = [_values(block.column(name)) for name in columns]
            except (pyarrow.ArrowException, UnicodeDecodeError, IndexError) as error:
                raise UnusableTable(f"{self.path}: damaged (values that are not of their type)") from error
            yield from zip(*values, strict=True)

    def numbers(self, start: int, columns: Sequence[str], rows: int) -> Iterator[Numbers]:
        """See `Table.numbers`."""
        import pyarrow

        for block in self._blocks(start, columns, rows):
            try:
                found = [block.column(name).cast(pyarrow.float64()).to_numpy(zero_copy_only=False) for name in columns]
            except pyarrow.ArrowException as error:
                raise UnusableTable(f"{self.path}: a column of pixels does not hold numbers") from error
            yield np.stack(found, axis=1)

    def image_columns(self) -> Sequence[str]:
        """See `Table.image_columns`: encoded images, or lists of numbers."""
        return [field.name for field in self._file().schema_arrow if _holds_images(field.type)]

    def class_names(self) -> Mapping[str, tuple[str, ...]]:
        """See `Table.class_names`: what `datasets` writes into the file's metadata."""
        written = (self._file().schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            features = json.loads(written).get("info", {}).get("features", {})
            return {
                column: tuple(map(str, feature["names"]))
                for column, feature in features.items()
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
            }
        except (ValueError, AttributeError, KeyError, TypeError):
            return {}  # somebody else's metadata

    def _blocks(self, start: int, columns: Sequence[str], rows: int) -> Iterator[Any]:
        import pyarrow

        file = self._file()
        try:
            # Row groups that end before the start are not read.
            groups: list[int] = []
            skipped = 0
            for group in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if not groups and skipped + count <= start:
                    skipped += count
                else:
                    groups.append(group)
            for block in file.iter_batches(batch_size=rows, row_groups=groups, columns=list(dict.fromkeys(columns))):
                first = min(max(0, start - skipped), len(block))
                skipped += len(block)
                if first < len(block):
                    yield block.slice(first)
        except (pyarrow.ArrowException, OSError) as error:
            raise UnusableTable(f"{self.path}: damaged ({str(error).splitlines()[0]})") from error

    def _file(self) -> Any:
        import pyarrow
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except OSError as error:
            raise UnusableTable(f"{self.path}: {error.strerror or 'not a Parquet file'}") from error
        except pyarrow.ArrowException as error:
            raise UnusableTable(f"{self.path}: not a Parquet file") from error


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if isinstance(kind, _extension()):
        kind = kind.storage_type
    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    if not _is_list(kind):
        return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))
    while _is_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _extension() -> Any:
    import pyarrow

    return pyarrow.BaseExtensionType


def _values(column: Any) -> Sequence[Any]:
    """Returns a column's values; lists of one size as arrays, without making an object of every number."""
    import pyarrow.compute

    if isinstance(column.type, _extension()):
        column = column.storage
    if not (_is_list(column.type) and _holds_images(column.type)):
        values: list[Any] = column.to_pylist()
        return values
    flat, sizes = column, [len(column)]
    while _is_list(flat.type):
        lengths = pyarrow.compute.list_value_length(flat).unique().to_pylist()
        if flat.null_count or len(lengths) != 1:
            return list(column.to_pylist())
        sizes.append(lengths[0])
        flat = flat.flatten()
    if flat.null_count:
        return list(column.to_pylist())
    return list(flat.to_numpy(zero_copy_only=False).reshape(sizes))
