"""Image files in zip and tar archives, read one after the other without unpacking them to disk.

zipfile and tarfile read the archives; only the choice of members is ours.
"""

from __future__ import annotations

import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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
from serving.score.source import Source, Survey, file_fingerprint, path_text

_DAMAGED = (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile)
_TOO_LARGE = Unreadable(reason=f"more than the {MAX_IMAGE_BYTES:,} bytes that digits-score takes")


class Archive(Source):
    """All files in an archive except hidden ones, in the archive's order.

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
        count = sum(1 for _ in self._members(read_from=None))
        if not count:
            raise UnusableInput(f"{self._path}: has no files")
        return Survey(count=count, fingerprint=fingerprint)

    def batches(self, start: int, limits: BatchLimits) -> Iterator[Batch]:
        """See `Source.batches`."""
        items = map(self._item, self._members(read_from=start))
        return make_batches(itertools.islice(items, start, None), limits)

    def _item(self, member: tuple[str, Encoded]) -> Item:
        name, image = member
        folder = PurePosixPath(name).parent.name
        return Item(
            id=f"{path_text(self._path)}/{path_text(name)}",
            image=image,
            expected=path_text(folder) if self._labelled and folder else None,
        )

    def _members(self, *, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
        """Yields name and bytes of each file; does not read those before `read_from`, or any if it is None."""
        members = _zip_members if zipfile.is_zipfile(self._path) else _tar_members
        try:
            yield from members(self._path, read_from)
        except (*_DAMAGED, tarfile.TarError) as error:
            reason = "not a complete zip or tar archive"
            if isinstance(error, OSError) and error.strerror:
                reason = error.strerror
            raise UnusableInput(f"{self._path}: {reason}") from error


def _zip_members(path: Path, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
    with zipfile.ZipFile(path) as archive:
        infos = (info for info in archive.infolist() if not info.is_dir() and not _hidden(info.filename))
        for number, info in enumerate(infos):
            image: Encoded = b""
            if read_from is not None and number >= read_from:
                image = _zip_content(archive, info)
            yield info.filename, image


def _zip_content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Encoded:
    if info.file_size > MAX_IMAGE_BYTES:
        return _TOO_LARGE
    try:
        return archive.read(info)
    except _DAMAGED:  # one bad file must not fail the others
        return Unreadable(reason="damaged or encrypted in its archive")


def _tar_members(path: Path, read_from: int | None) -> Iterator[tuple[str, Encoded]]:
    number = 0
    with tarfile.open(path) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it would keep every header
            if not info.isfile() or _hidden(info.name):
                continue
            image: Encoded = b""
            if read_from is not None and number >= read_from:
                file = archive.extractfile(info) if info.size <= MAX_IMAGE_BYTES else None
                image = file.read() if file else _TOO_LARGE
            yield info.name, image
            number += 1


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name.startswith("__MACOSX/") or any(part.startswith(".") and part != "." for part in parts)
