"""From what was typed to sources: which kind of input a path is."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.score.archives import Archive
from serving.score.arrays import ArrayFile
from serving.score.batch import UnusableInput
from serving.score.files import Files, Folder
from serving.score.source import Chain, Source
from serving.score.tables import Columns, CsvTable, ParquetTable

_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How inputs are read.

    Attributes:
        labelled_folders: Whether the folder that a file lies in is the name of its label.
        label_file: True labels of one file of arrays, .npy or IDX.
        columns: Which columns of tables, and which arrays of .npz files, mean what.
    """

    labelled_folders: bool = False
    label_file: Path | None = None
    columns: Columns = field(default_factory=Columns)


def open_inputs(inputs: Sequence[str], reading: Reading) -> Source:
    """Makes a source of inputs; reads none of them yet.

    Args:
        inputs: Folders, files, or patterns as the shell has them, `**` included, in the order of the output.
        reading: How they are read.

    Raises:
        UnusableInput: There is no such file, a pattern that nothing fits, or labels for something that takes none.
    """
    paths = [path for given in inputs for path in _matching(given)]
    sources: list[Source] = []
    for is_image, group in itertools.groupby(paths, key=_is_image):
        if is_image:
            sources.append(Files(list(group), labelled=reading.labelled_folders))
        else:
            sources += [_source(path, reading) for path in group]
    if reading.label_file is not None and not (len(sources) == 1 and isinstance(sources[0], ArrayFile)):
        raise UnusableInput(f"{reading.label_file}: a file of labels goes with one .npy, .npz or IDX file")
    return Chain(sources)


def _matching(given: str) -> list[Path]:
    if os.path.lexists(given):
        return [Path(given)]
    if not glob.has_magic(given):
        raise UnusableInput(f"{given}: no such file or folder")
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - Path's would not take an absolute pattern
    files = [Path(path) for path in found if Path(path).is_file()]
    if not files:
        raise UnusableInput(f"{given}: no file fits this pattern")
    return files


def _is_image(path: Path) -> bool:
    return not path.is_dir() and _kind(path) == "image"


def _kind(path: Path) -> str:
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    if name.endswith(".zip") or name.endswith(_TAR):
        return "archive"
    if plain.endswith((".npy", ".npz", "-ubyte", ".idx")):
        return "array"
    return {".csv": "csv", ".parquet": "parquet"}.get(path.suffix.lower(), "image")


def _source(path: Path, reading: Reading) -> Source:
    if path.is_dir():
        return Folder(path, labelled=reading.labelled_folders)
    kind, columns = _kind(path), reading.columns
    if kind == "archive":
        return Archive(path, labelled=reading.labelled_folders)
    if kind == "array":
        in_npz = columns.label if path.suffix == ".npz" else None
        return ArrayFile(path, member=columns.image, labels=reading.label_file or in_npz)
    return CsvTable(path, columns) if kind == "csv" else ParquetTable(path, columns)
