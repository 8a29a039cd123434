"""Which files are tables, and what reads them."""

from __future__ import annotations

from pathlib import Path, PurePath

from serving.images.tables.parquet_table import ParquetTable
from serving.images.tables.table import Table, UnusableTable
from serving.images.tables.text_tables import DelimitedTable, JsonLinesTable

_TABLES: dict[str, type[Table]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab"), DelimitedTable),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JsonLinesTable),
    **dict.fromkeys((".parquet", ".pq"), ParquetTable),
}
_COMPRESSED = (".gz", ".bz2", ".xz")


def is_table_name(name: str | PurePath) -> bool:
    """Whether the name is that of a table that can be read."""
    return _reader(name) is not None


def open_table(path: Path) -> Table:
    """Makes the table of a file, without reading it.

    Raises:
        UnusableTable: By its name, the file is no table that can be read.
    """
    reader = _reader(path)
    if reader is None:
        raise UnusableTable(f"{path}: not a table by its name; known are {', '.join(_TABLES)}")
    return reader(path)


def _reader(name: str | PurePath) -> type[Table] | None:
    path = PurePath(str(name).lower())
    reader = _TABLES.get(path.suffix)
    if reader is None and path.suffix in _COMPRESSED:
        reader = _TABLES.get(path.with_suffix("").suffix)
        return None if reader is ParquetTable else reader
    return reader
