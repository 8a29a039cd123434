"""Image files: the files that were named, or all files in a folder."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.images.names import is_hidden, is_image_name
from serving.images.tables.files import is_table_name
from serving.score.batch import Batch, BatchLimits, Item, UnusableInput, make_batches
from serving.score.source import EXAMPLES, Source, Survey, copy_fingerprint, file_fingerprint, path_text


class Files(Source):
    """Files in the order in which they were named. Those that are no images by their name are left out.

    Args:
        paths: The files.
        labelled: Whether the name of a file's folder is its true label.
        may_be_empty: Whether it is no error if all files are left out.
    """

    def __init__(self, paths: Iterable[Path], *, labelled: bool, may_be_empty: bool = False) -> None:
        self._named = paths
        self._labelled = labelled
        self._may_be_empty = may_be_empty

    def survey(self) -> Survey:
        """See `Source.survey`."""
        exact, copies = hashlib.sha256(), hashlib.sha256()
        count, others, examples = 0, 0, list[Path]()
        for path in self._found():
            if is_image_name(path):
                for digest, fingerprint in zip((exact, copies), self._fingerprints(path), strict=True):
                    digest.update(f"{fingerprint}\n".encode())
                count += 1
            else:
                others += 1
                examples += [path] if len(examples) < EXAMPLES else []
        if not count and not self._may_be_empty:
            raise UnusableInput(self._nothing(others, examples))
        names = tuple(path_text(path.name) for path in examples)
        return Survey(
            count=count,
            fingerprint=exact.hexdigest(),
            copies=copies.hexdigest(),
            left_out=others,
            examples=names,
        )

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        images = filter(is_image_name, self._found())
        return make_batches((self._item(path) for path in itertools.islice(images, start, None)), limits)

    def _item(self, path: Path) -> Item:
        return Item(id=path_text(path), image=path, expected=self._label(path) if self._labelled else None)

    def _found(self) -> Iterator[Path]:
        return iter(self._named)

    def _nothing(self, others: int, examples: list[Path]) -> str:
        """Says that there are no images."""
        if others == 1:
            return f"{path_text(examples[0])}: by its name neither an image nor anything else that is read"
        return f"by their names, none of {others:,} files is an image ({', '.join(map(path_text, examples))})"

    def _fingerprints(self, path: Path) -> tuple[str, str]:
        return file_fingerprint(path), copy_fingerprint(path, sampled=False)

    def _label(self, path: Path) -> str | None:
        return path_text(path.parent.name) or None


class Folder(Files):
    """All files below a folder that may be images, sorted by name. Keeps one directory's names in memory at a time.

    Left out are hidden files, what a Mac keeps in `__MACOSX`, and files that are no images by their name.

    Args:
        root: The folder.
        labelled: Whether the name of a file's sub-folder is its true label.
    """

    def __init__(self, root: Path, *, labelled: bool) -> None:
        super().__init__((), labelled=labelled)
        self._root = root

    def _found(self) -> Iterator[Path]:
        return _walk(self._root)

    def _nothing(self, others: int, examples: list[Path]) -> str:
        if not others:
            return f"{self._root}: an empty folder"
        names = ", ".join(path_text(path.relative_to(self._root)) for path in examples)
        said = f"{self._root}: by their names, none of {others:,} files is an image ({names})"
        if table := next(filter(is_table_name, examples), None):
            pattern = self._root / ("*" if table.parent == self._root else "**/*")
            said += f"; for tables, give a pattern in quotes: '{pattern}{table.suffix}'"
        return said

    def _fingerprints(self, path: Path) -> tuple[str, str]:
        try:
            return super()._fingerprints(path)
        except UnusableInput:  # a broken link, or a file that was just removed: its row will report it
            return path_text(path), path_text(path)

    def _label(self, path: Path) -> str | None:
        return None if path.parent == self._root else super()._label(path)


def _walk(folder: Path) -> Iterator[Path]:
    """Yields the regular files below a folder in a fixed order. Links to folders may form a cycle: not followed."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(
                (entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries if not is_hidden(entry.name)
            )
    except OSError as error:
        raise UnusableInput(f"{folder}: {error.strerror}") from error
    for name, is_folder in found:
        path = folder / name
        if is_folder:
            yield from _walk(path)
        elif path.is_file() or not path.exists():  # a broken link becomes a row with an error
            yield path
