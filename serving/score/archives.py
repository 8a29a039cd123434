"""Image files in zip and tar archives, read one after the other without unpacking them to disk.

zipfile and tarfile read the archives; only the choice of members is ours.
"""

from __future__ import annotations

import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from serving.images.names import is_hidden, is_image_name
from serving.score.batch import (
    MAX_IMAGE_BYTES,
    Batch,
    BatchLimits,
    Encoded,
    Item,
    Unreadable,
    UnusableInput,
    make_batches,
)
from serving.score.source import EXAMPLES, Source, Survey, copy_fingerprint, file_fingerprint, path_text

Wanted = Callable[[str], bool]

_DAMAGED = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile)
_TOO_LARGE = Unreadable(reason=f"more than the {MAX_IMAGE_BYTES:,} bytes that digits-score takes")


class Archive(Source):
    """All files in an archive that may be images, in the archive's order.

    Left out are hidden files, what a Mac keeps in `__MACOSX`, and files that are no images by their name.
    The directory of a zip file is kept in memory, about 0.6 kB per image. Nothing of a tar file is.

    Args:
        path: A .zip, or a .tar in any compression that Python reads.
        labelled: Whether the name of a file's folder is its true label.
    """

    def __init__(self, path: Path, *, labelled: bool) -> None:
        self._path = path
        self._labelled = labelled

    def survey(self) -> Survey:
        """See `Source.survey`."""
        fingerprint = file_fingerprint(self._path)
        count, others, examples = 0, 0, list[str]()
        for name, _ in self._members(_everything, read_from=None):
            if is_image_name(name):
                count += 1
            else:
                others += 1
                examples += [path_text(name)] if len(examples) < EXAMPLES else []
        if not count:
            found = f"none of its {others:,} files is an image by its name ({', '.join(examples)}); unpack it first"
            raise UnusableInput(f"{self._path}: {found if others else 'has no files'}")
        copies = copy_fingerprint(self._path)
        return Survey(count=count, fingerprint=fingerprint, copies=copies, left_out=others, examples=tuple(examples))

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        items = map(self._item, self._members(is_image_name, read_from=start))
        return make_batches(itertools.islice(items, start, None), limits)

    def _item(self, member: tuple[str, Encoded]) -> Item:
        name, image = member
        folder = PurePosixPath(name).parent.name
        return Item(
            id=f"{path_text(self._path)}/{path_text(name)}",
            image=image,
            expected=path_text(folder) if self._labelled and folder else None,
        )

    def _members(self, wanted: Wanted, *, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
        """Yields name and bytes of each file that is wanted; reads none before `read_from`, or none if it is None."""
        members = _zip_members if zipfile.is_zipfile(self._path) else _tar_members
        try:
            yield from members(self._path, wanted, read_from)
        except (*_DAMAGED, tarfile.TarError) as error:
            reason = "not a complete zip or tar archive"
            if isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            raise UnusableInput(f"{self._path}: {reason}") from error


def _everything(_: str) -> bool:
    return True


def _zip_members(path: Path, wanted: Wanted, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
    with zipfile.ZipFile(path) as archive:
        number = 0
        for info in archive.infolist():
            name = info.filename.replace("\\", "/")  # some programs on Windows write it
            if name.endswith("/") or is_hidden(name) or not wanted(name):
                continue
            image: Encoded = b""
            if read_from is not None and number >= read_from:
                image = _zip_content(archive, info)
            yield name, image
            number += 1


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Encoded:
    if info.file_size > MAX_IMAGE_BYTES:
        return _TOO_LARGE
    try:
        return archive.read(info)
    except _DAMAGED:  # one bad file must not fail the others
        return Unreadable(reason="damaged or encrypted in its archive")


def _tar_members(path: Path, wanted: Wanted, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
    number = 0
    with tarfile.open(path) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would keep every header
            if not info.isfile() or is_hidden(info.name) or not wanted(info.name):
                continue
            image: Encoded = b""
            if read_from is not None and number >= read_from:
                file = archive.extractfile(info) if info.size <= MAX_IMAGE_BYTES else None
                image = file.read() if file else _TOO_LARGE
            yield info.name, image
            number += 1
