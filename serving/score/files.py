"""Image files: a folder with all that is below it, or files that were named."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from serving.score.batch import Batch, BatchLimits, Item, UnusableInput, gather
from serving.score.source import Source, Survey, file_fingerprint, text_of


class Folder(Source):
    """Every file below a folder, hidden ones aside, in the order of their names. Holds one directory's names at a time.

    Args:
        root: The folder.
        labelled: Whether the sub-folder that a file lies in is the name of its label.
    """

    def __init__(self, root: Path, *, labelled: bool) -> None:
        self._root = root
        self._labelled = labelled

    def survey(self) -> Survey:
        """See `Source.survey`."""
        digest, count = hashlib.sha256(), 0
        for path in _walk(self._root):
            try:
                digest.update(f"{file_fingerprint(path)}\n".encode())
            except UnusableInput:  # a link to nothing, or a file that just went: its row will say so
                digest.update(f"{text_of(path)}\n".encode())
            count += 1
        if not count:
            raise UnusableInput(f"{self._root}: an empty folder")
        return Survey(count=count, fingerprint=digest.hexdigest())

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        return gather((self._item(path) for path in itertools.islice(_walk(self._root), start, None)), limits)

    def _item(self, path: Path) -> Item:
        within = path.relative_to(self._root).parts
        expected = text_of(within[-2]) if self._labelled and len(within) > 1 else None
        return Item(id=text_of(path), image=path, expected=expected)


class Files(Source):
    """Files that were named, in the order in which they were.

    Args:
        paths: The files.
        labelled: Whether the folder that a file lies in is the name of its label.
    """

    def __init__(self, paths: Sequence[Path], *, labelled: bool) -> None:
        self._paths = paths
        self._labelled = labelled

    def survey(self) -> Survey:
        """See `Source.survey`."""
        digest = hashlib.sha256()
        for path in self._paths:
            digest.update(f"{file_fingerprint(path)}\n".encode())
        return Survey(count=len(self._paths), fingerprint=digest.hexdigest())

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        items = (
            Item(id=text_of(path), image=path, expected=text_of(path.parent.name) if self._labelled else None)
            for path in itertools.islice(self._paths, start, None)
        )
        return gather(items, limits)


def _walk(folder: Path) -> Iterator[Path]:
    """Regular files below a folder in an order of their own; links to folders are not followed, they may be circles."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if not entry.name.startswith(".")
            )
    except OSError as error:
        raise UnusableInput(f"{folder}: {error.strerror}") from error
    for name, is_folder in found:
        path = folder / name
        if is_folder:
            yield from _walk(path)
        elif path.is_file() or not path.exists():  # a link to nothing is a file that can't be read
            yield path
