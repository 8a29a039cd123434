"""A folder of images as a data set: a sub-folder for each class, or such folders for training and for test."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from serving.errors import InvalidImage
from serving.images.decoding import Uint8Array, load_image
from serving.images.geometry import resize
from serving.images.names import is_hidden, is_image_name
from serving.images.pixel_arrays import ImageShape
from serving.images.tables.files import is_table_name
from serving.images.tables.table import list_names
from training.errors import DatasetError
from training.labelled_images import LabelledImages, Splits, by_split, split_of, stacked

_LISTED = 5

_logger = logging.getLogger(__name__)


def read_folder(
    path: Path, *, image_shape: ImageShape | None = None, skip_unreadable: bool = False
) -> tuple[Splits, tuple[str, ...]]:
    """Reads all images of a folder into memory.

    Sub-folders that are named after splits, such as `train` and `test`, and that hold the same classes, are these
    splits. Files that are no images by their name are left out and counted.

    Args:
        path: The folder.
        image_shape: Height, width and channels to which images are resized, without keeping their proportions. By
            default they keep their own, which must be the same for all.
        skip_unreadable: Leave out files that can't be read, with a warning, instead of refusing the folder.

    Returns:
        Training images and labels, test images and labels; and the names of the classes, sorted.

    Raises:
        DatasetError: Fewer than two classes, a class with fewer than two images, unreadable files or different sizes,
            or sub-folders that hold the same sub-folders but are no splits.
    """
    reader = _Reader(path, image_shape, skip_unreadable)
    folders = _sub_folders(path)
    parts = _splits(path, folders)
    if parts is None:
        if len(folders) < 2:
            raise DatasetError(
                f"{path}: {len(folders)} sub-folders, but a data set needs at least two, one for each class"
                + _other_place(path, folders)
            )
        whole = reader.read([path], least=2)
        return whole.split(), whole.label_names
    train, test = (reader.read(part, least=1) for part in parts)
    return train.with_test_set(test), train.label_names


class _Reader:
    """Reads classes from one or more folders that have the same sub-folders."""

    def __init__(self, root: Path, image_shape: ImageShape | None, skip_unreadable: bool) -> None:
        self._root = root
        self._image_shape = image_shape
        self._skip_unreadable = skip_unreadable

    def read(self, folders: Sequence[Path], *, least: int) -> LabelledImages:
        names = tuple(folder.name for folder in _sub_folders(folders[0]))
        images: list[Uint8Array] = []
        labels: list[int] = []
        keys: list[str] = []
        others: list[str] = []
        unreadable: list[str] = []
        for label, name in enumerate(names):
            for file in (file for folder in folders for file in _files(folder / name)):
                key = file.relative_to(self._root).as_posix()
                if not is_image_name(file):
                    others.append(key)
                    continue
                try:
                    images.append(self._load(file))
                except InvalidImage as error:
                    unreadable.append(str(error))
                    continue
                labels.append(label)
                keys.append(key)
        if others:
            said = "%s: left out %d files that are no images by their name (%s)"
            _logger.warning(said, self._root, len(others), list_names(others))
        check_readable(self._root, unreadable, self._skip_unreadable)
        for label, name in enumerate(names):
            if labels.count(label) < least:
                needed = "two" if least == 2 else "one"
                raise DatasetError(
                    f"{folders[0] / name}: {labels.count(label)} images, but a class needs at least {needed}"
                )
        return LabelledImages(
            images=stacked(images, keys, self._root),
            labels=np.array(labels, dtype=np.int64),
            keys=keys,
            label_names=names,
        )

    def _load(self, file: Path) -> Uint8Array:
        shape = self._image_shape
        image = load_image(file, channels=shape[2] if shape else None)
        return resize(image, *shape[:2]) if shape else image


def check_readable(where: object, unreadable: Sequence[str], skip: bool, *, what: str = "files") -> None:
    """Refuses images that can't be read, or warns that they are left out.

    Raises:
        DatasetError: There are such images, and they are not to be skipped.
    """
    if not unreadable:
        return
    listed = "\n  ".join([*unreadable[:_LISTED], *(["…"] if len(unreadable) > _LISTED else [])])
    if not skip:
        raise DatasetError(
            f"{where}: {len(unreadable)} {what} are not readable images (--skip-unreadable leaves them out):\n"
            f"  {listed}"
        )
    _logger.warning("%s: left out %d %s that are not readable images:\n  %s", where, len(unreadable), what, listed)


def _splits(path: Path, folders: Sequence[Path]) -> tuple[list[Path], list[Path]] | None:
    """Returns the folders to train on and those to test on; None if the folder's sub-folders are its classes."""
    inner = {folder: {each.name for each in _sub_folders(folder)} for folder in folders}
    same = len(folders) > 1 and len({frozenset(names) for names in inner.values()}) == 1
    named = len(folders) > 1 and all(split_of(folder.name) for folder in folders)
    if not any(inner.values()) or not (named or (same and len(next(iter(inner.values()))) > 1)):
        return None
    parts = by_split({folder.name: folder for folder in folders})
    if parts is not None and same:
        return parts
    held = "; ".join(f"{folder.name}: {list_names(sorted(names)) or 'none'}" for folder, names in inner.items())
    if named:
        said = "the splits do not hold the same classes, for training and for test"
    else:
        said = "each sub-folder holds the same sub-folders, so which of them are the classes?"
    raise DatasetError(f"{path}: {said} ({held}); name one of them: folder:{folders[-1]}")


def _other_place(path: Path, folders: Sequence[Path]) -> str:
    """Says where the data may be instead, if it can be seen."""
    if folders and len(_sub_folders(folders[0])) > 1:
        return f"; the classes may be in {folders[0]}"
    table = next((file for file in sorted(path.iterdir()) if is_table_name(file) or file.suffix == ".npz"), None)
    return f"; for a table or arrays, name the file: {table}" if table else ""


def _sub_folders(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error


def _files(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.rglob("*")):
        if entry.is_file() and not is_hidden(entry.relative_to(folder)):
            yield entry
