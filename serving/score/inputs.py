"""Makes sources of the inputs on the command line: which kind of input a path is."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.images.names import is_image_name
from serving.images.tables.columns import Columns
from serving.images.tables.files import is_table_name, open_table
from serving.score.archives import Archive
from serving.score.arrays import ArrayFile
from serving.score.batch import UnusableInput
from serving.score.files import Files, Folder
from serving.score.source import Chain, Source
from serving.score.tables import TableSource

# Kinds of files that hold many images, with what to do about them.
_NOT_READ = {
    **dict.fromkeys(
        (".xlsx", ".xls", ".xlsm", ".ods", ".feather", ".arrow", ".orc", ".avro", ".dta", ".sav", ".sas7bdat", ".rds"),
        "save the table as .csv or .parquet",
    ),
    **dict.fromkeys((".sqlite", ".sqlite3"), "save the table as .csv or .parquet"),
    **dict.fromkeys(
        (
            ".pkl",
            ".pickle",
            ".joblib",
            ".h5",
            ".hdf5",
            ".mat",
            ".pt",
            ".pth",
            ".safetensors",
            ".tfrecord",
            ".tfrecords",
        ),
        "save the images as .npy or .npz",
    ),
    **dict.fromkeys((".7z", ".rar", ".zst"), "pack the images as .zip or .tar"),
}
_TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How inputs are read.

    Attributes:
        labelled_folders: Whether the name of a file's folder is its true label.
        label_file: True labels for one array file, .npy or IDX.
        columns: What the columns of tables and the arrays of .npz files mean.
    """

    labelled_folders: bool = False
    label_file: Path | None = None
    columns: Columns = field(default_factory=Columns)


def open_inputs(inputs: Sequence[str], options: InputOptions) -> Source:
    """Makes a source of inputs, without reading them.

    Args:
        inputs: Folders, files, or shell patterns, with `**` for any number of folders, in the order of the output.
        options: How they are read.

    Raises:
        UnusableInput: A file does not exist or is of a kind that is not read, a pattern matches nothing, or the input
            takes no labels.
    """
    named = [entry for given in inputs for entry in _matching(given)]
    sources: list[Source] = []
    for is_file, group in itertools.groupby(named, key=lambda entry: entry[1] in ("image", "other")):
        paths = [path for path, _ in group]
        if is_file:
            partial = len(paths) < len(named)  # other inputs have images even if these are all left out
            sources.append(Files(paths, labelled=options.labelled_folders, may_be_empty=partial))
        else:
            sources += [_source(path, options) for path in paths]
    if options.label_file is not None and not (len(sources) == 1 and isinstance(sources[0], ArrayFile)):
        raise UnusableInput(f"{options.label_file}: a label file needs exactly one .npy, .npz or IDX file as input")
    return Chain(sources)


def _matching(given: str) -> list[tuple[Path, str]]:
    """Returns the files that an input names, each with its kind."""
    if os.path.lexists(given):
        return [(Path(given), _kind(Path(given)))]
    if not glob.has_magic(given):
        raise UnusableInput(f"{given}: no such file or folder")
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    files = [Path(path) for path in found if Path(path).is_file()]
    if not files:
        raise UnusableInput(f"{given}: no file matches this pattern")
    kinds = [_kind(path) for path in files]
    if any(kind == "image" and path.suffix for path, kind in zip(files, kinds, strict=True)):
        # Tables beside images describe them, as in a folder.
        kinds = ["other" if kind in ("table", "not read") else kind for kind in kinds]
    return list(zip(files, kinds, strict=True))


def _kind(path: Path) -> str:
    name = path.name.lower()
    if path.is_dir():
        return "folder"
    if name.endswith(".zip") or name.endswith(_TAR):
        return "archive"
    if name.removesuffix(".gz").endswith((".npy", ".npz", "-ubyte", ".idx")):
        return "array"
    if is_table_name(path):
        return "table"
    if path.suffix.lower() in _NOT_READ:
        return "not read"
    return "image" if is_image_name(path) else "other"


def _source(path: Path, options: InputOptions) -> Source:
    if path.is_dir():
        return Folder(path, labelled=options.labelled_folders)
    kind, columns = _kind(path), options.columns
    if kind == "archive":
        return Archive(path, labelled=options.labelled_folders)
    if kind == "array":
        in_npz = columns.label if path.suffix == ".npz" else None
        return ArrayFile(path, member=columns.image, labels=options.label_file or in_npz)
    if kind == "not read":
        raise UnusableInput(f"{path}: files of this kind are not read; {_NOT_READ[path.suffix.lower()]}")
    return TableSource(open_table(path), columns)
