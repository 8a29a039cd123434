"""Files of labelled images as a data set: tables (CSV, JSON lines, Parquet) and arrays (.npz)."""

from __future__ import annotations

import glob
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.errors import DigitsError, InvalidImage, install_hint
from serving.images.decoding import Uint8Array, decode_image, load_image
from serving.images.geometry import resize
from serving.images.pixel_arrays import ImageShape, size_text, to_images
from serving.images.tables.cells import class_name, encoded_image, label_text
from serving.images.tables.columns import Columns, find_images, find_label
from serving.images.tables.files import is_table_name, open_table
from serving.images.tables.pixel_table import PixelTable, holds_pixels
from serving.images.tables.table import Table, list_names
from training.errors import DatasetError
from training.folder import check_readable
from training.labelled_images import LabelledImages, Splits, by_split, class_names, fitted, split_of, stacked

_BLOCK_ROWS = 1024
_IMAGE_WORDS = {"x", "image", "images", "img", "imgs", "data", "pixels", "features"}
_LABEL_WORDS = {"y", "label", "labels", "target", "targets", "class", "classes"}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """What one file, or one pair of arrays, holds.

    Attributes:
        images: uint8 `[n, height, width, channels]`.
        labels: The label of each image.
        names: The names of all classes in their order, if the file says them.
    """

    images: Uint8Array
    labels: list[str]
    names: tuple[str, ...] = ()


def find_files(path: Path) -> list[Path]:
    """Returns the files of a source: a file, a pattern, or a folder of Parquet files.

    Raises:
        DatasetError: There are none.
    """
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(each for folder in (path, path / "data") for each in folder.glob("*.parquet"))
    else:
        found = sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207 - a path may be absolute
    if not found:
        raise DatasetError(f"{path}: no such file, and no file matches it as a pattern")
    return found


def read_files(
    files: Sequence[Path], *, image_shape: ImageShape | None = None, skip_unreadable: bool = False
) -> tuple[Splits, tuple[str, ...]]:
    """Reads labelled images into memory.

    Files whose names or folders say so, such as `train-0.parquet` and `test-0.parquet`, are splits, and so are arrays
    of an .npz file (`x_train`, `y_train`, `x_test`, `y_test`). Otherwise the images are split as those of a folder are.

    Args:
        files: Tables with a column of labels, or .npz files.
        image_shape: Height, width and channels to which images are resized; by default they keep their own.
        skip_unreadable: Leave out rows without a readable image, with a warning, instead of refusing the file.

    Returns:
        Training images and labels, test images and labels; and the names of the classes.

    Raises:
        DatasetError: A file is no such file, or what it means leaves a doubt.
    """
    parts: dict[str, _Part] = {}
    together = Path(os.path.commonpath([file.absolute().parent for file in files]))
    try:
        for file in files:
            # The name of a file says its split before the names of its folders do.
            below = f"{file.name} in {file.absolute().parent.relative_to(together)}"
            if file.suffix.lower() == ".npz":
                parts |= {f"{name} {below}": part for name, part in _read_npz(file).items()}
            elif is_table_name(file):
                parts[below] = _read_table(open_table(file), image_shape, skip_unreadable)
            else:
                raise DatasetError(
                    f"{file}: neither a table with labels (.csv, .tsv, .jsonl, .parquet) nor an .npz file"
                )
        parts = {name: replace(part, images=fitted(part.images, image_shape)) for name, part in parts.items()}
        names = _names(list(parts.values()))
        splits = by_split(parts) if len(parts) > 1 else None
        if splits is None:
            whole = _joined(list(parts.values()), names)
            if lonely := [names[label] for label in np.flatnonzero(np.bincount(whole.labels) == 1)]:
                raise DatasetError(
                    f"{files[0]}: one image of {list_names(lonely)}, but a class needs two, to train and to test"
                )
            return whole.split(), names
        train, test = (_joined(part, names) for part in splits)
        return train.with_test_set(test), names
    except DatasetError:
        raise
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"{files[0]}: reading Parquet needs {error.name}, of the extra score: {install_hint('score')}"
        ) from error
    except DigitsError as error:
        raise DatasetError(str(error)) from error


def _names(parts: Sequence[_Part]) -> tuple[str, ...]:
    stated = {part.names for part in parts if part.names}
    if len(stated) > 1:
        raise DatasetError("the files name different classes")
    if stated:
        return stated.pop()
    names = class_names(label for part in parts for label in part.labels)
    if len(names) < 2:
        raise DatasetError(f"{len(names)} classes, but a data set needs at least two")
    return names


def _joined(parts: Sequence[_Part], names: tuple[str, ...]) -> LabelledImages:
    sizes = sorted({size_text(part.images.shape[1:]) for part in parts})
    if len(sizes) > 1:
        raise DatasetError(
            f"the files have images of different sizes: {', '.join(sizes)}; --image-size HEIGHTxWIDTHxCHANNELS resizes "
            "them all"
        )
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[label] for part in parts for label in part.labels]
    return LabelledImages(
        images=np.concatenate([part.images for part in parts]),
        labels=np.array(labels, np.int64),
        keys=[str(number) for number in range(len(labels))],
        label_names=names,
    )


def _read_table(table: Table, image_shape: ImageShape | None, skip_unreadable: bool) -> _Part:
    label = find_label(table)
    columns = find_images(table, Columns(label=label))
    names = table.class_names().get(label, ())
    if holds_pixels(table, columns):
        images, unreadable = _raw_pixels(PixelTable(table, columns))
    else:
        images, unreadable = _decoded(table, columns.names[0], columns.are_paths, image_shape)
    said = [f"{table.path}: row {row}: {reason}" for row, reason in unreadable.items()]
    check_readable(table.path, said, skip_unreadable, what="rows")
    labels = []
    for row, (value,) in enumerate(table.rows(0, [label])):
        if row in unreadable:
            continue
        text = label_text(value)
        if text is None:
            raise DatasetError(f"{table.path}: row {row} has no label in the column {label}")
        labels.append(class_name(text, names))
        if names and labels[-1] not in names:
            raise DatasetError(f"{table.path}: row {row} has the label {text}, which is none of {list_names(names)}")
    return _Part(images=images, labels=labels, names=names)


def _raw_pixels(pixels: PixelTable) -> tuple[Uint8Array, dict[int, str]]:
    count, layout = pixels.survey(), pixels.layout()
    images = np.empty((count, *layout.shape), np.uint8)
    unreadable: dict[int, str] = {}
    start = 0
    for block, errors in pixels.images(0, _BLOCK_ROWS, layout):
        images[start : start + len(block)] = block
        unreadable |= {start + index: reason for index, reason in errors.items()}
        start += len(block)
    return np.delete(images, list(unreadable), axis=0) if unreadable else images, unreadable


def _decoded(table: Table, column: str, is_path: bool, shape: ImageShape | None) -> tuple[Uint8Array, dict[int, str]]:
    images: list[Uint8Array] = []
    rows: list[str] = []
    unreadable: dict[int, str] = {}
    channels = shape[2] if shape else None
    for row, (cell,) in enumerate(table.rows(0, [column])):
        try:
            content = encoded_image(cell, table.path.parent, is_path=is_path)
            if isinstance(content, Path):
                image = load_image(content, channels=channels)
            else:
                image = decode_image(content, channels=channels).pixels
        except InvalidImage as error:
            unreadable[row] = str(error)
            continue
        images.append(resize(image, *shape[:2]) if shape else image)
        rows.append(f"row {row}")
    if not images:
        reason = next(iter(unreadable.values()), "it has no rows")
        raise DatasetError(f"{table.path}: not one image can be read: {reason}")
    return stacked(images, rows, table.path), unreadable


def _read_npz(path: Path) -> dict[str, _Part]:
    """Reads the pairs of images and labels of an .npz file, by the names of their splits."""
    try:
        with np.load(path) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: not an .npz file of numbers, or a damaged one") from error
    groups: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    for name, array in arrays.items():
        groups.setdefault(split_of(name) or "", {})[name] = array
    if len(groups) > 1:
        groups.pop("", None)  # names of classes and the like, beside the splits
    return {split: _pair(path, group) for split, group in groups.items()}


def _pair(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]]) -> _Part:
    words = {name: {*re.split(r"[\W\d_]+", name.lower())} for name in arrays}
    images = [name for name in arrays if words[name] & _IMAGE_WORDS]
    labels = [name for name in arrays if words[name] & _LABEL_WORDS]
    if len(images) != 1 or len(labels) != 1:
        raise DatasetError(
            f"{path}: which of the arrays {list_names(arrays)} are images, and which are labels? Call them images and "
            "labels, or x_train, y_train, x_test and y_test"
        )
    texts = _labels(path, labels[0], arrays[labels[0]])
    try:
        found = to_images(arrays[images[0]])
    except InvalidImage as error:
        raise DatasetError(f"{path}: {images[0]}: {error}") from error
    if len(found) != len(texts):
        raise DatasetError(f"{path}: {len(found)} images in {images[0]}, but {len(texts)} labels in {labels[0]}")
    return _Part(images=found, labels=texts)


def _labels(path: Path, name: str, array: npt.NDArray[np.generic]) -> list[str]:
    """Returns labels as text, from `[n]`, `[n, 1]`, or a one for the class of each row in `[n, classes]`."""
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "buif":
        is_one = array == 1
        if ((array == 0) | is_one).all() and (is_one.sum(axis=1) == 1).all():
            array = is_one.argmax(axis=1)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    texts = [label_text(value) for value in array.tolist()] if array.ndim == 1 else [None]
    if None in texts:
        raise DatasetError(f"{path}: {name} is {array.dtype} {list(array.shape)}, but labels are one for each image")
    return [text for text in texts if text is not None]
