"""Image files: the files that were named, or all files in a folder."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.score.batch import Batch, BatchLimits, Item, UnusableInput, make_batches
from serving.score.source import Source, Survey, file_fingerprint, path_text


class Files(Source):
    """Files in the order in which they were named.

    Args:
        paths: The files.
        labelled: Whether the name of a file's folder is its true label.
    """

    def __init__(self, paths: Iterable[Path], *, labelled: bool) -> None:
        self._named = paths
        self._labelled = labelled

    def survey(self) -> Survey:
        """See `Source.survey`."""
        digest, count = hashlib.sha256(), 0
        for path in self._paths():
            digest.update(f"{self._fingerprint(path)}\n".encode())
            count += 1
        return Survey(count=count, fingerprint=digest.hexdigest())

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        return make_batches((self._item(path) for path in itertools.islice(self._paths(), start, None)), limits)

    def _item(self, path: Path) -> Item:
        return Item(id=path_text(path), image=path, expected=self._label(path) if self._labelled else None)

    def _paths(self) -> Iterator[Path]:
        return iter(self._named)

    def _fingerprint(self, path: Path) -> str:
        return file_fingerprint(path)

    def _label(self, path: Path) -> str | None:
        return path_text(path.parent.name)


class Folder(Files):
    """All files below a folder except hidden ones, sorted by name. Keeps one directory's names in memory at a time.

    Args:
        root: The folder.
        labelled: Whether the name of a file's sub-folder is its true label.
    """

    def __init__(self, root: Path, *, labelled: bool) -> None:
        super().__init__((), labelled=labelled)
        self._root = root

    def survey(self) -> Survey:
        """See `Source.survey`."""
        survey = super().survey()
        if not survey.count:
            raise UnusableInput(f"{self._root}: an empty folder")
        return survey

    def _paths(self) -> Iterator[Path]:
        return _walk(self._root)

    def _fingerprint(self, path: Path) -> str:
        try:
            return file_fingerprint(path)
        except UnusableInput:  # a broken link, or a file that was just removed: its row will report it
            return path_text(path)

    def _label(self, path: Path) -> str | None:
        return None if path.parent == self._root else super()._label(path)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the regular files below a folder in a fixed order. Links to folders may form a cycle: not followed."""
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
        elif path.is_file() or not path.exists():  # a broken link becomes a row with an error
            yield path
