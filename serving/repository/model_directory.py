"""The directory of one model: versions are added and removed, and files replaced, atomically."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from serving.errors import RepositoryError

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# Hidden names, so that no reader takes them for a version.
_ADDING, _REMOVING = ".publishing-", ".removing-"
_LOCK = ".lock"
# Holds the highest version ever removed, so that a number that callers know is never reused for another model.
_HIGHEST_REMOVED = ".highest-removed"


class ModelDirectory:
    """The versions of one model and the files next to them. Keeps no file open.

    Args:
        path: The directory. It need not exist before the first version is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def versions(self) -> list[int]:
        """Returns all versions, ascending.

        Raises:
            RepositoryError: The directory can't be read.
        """
        try:
            if not self.path.is_dir():
                return []
            return sorted(int(entry.name) for entry in _directories(self.path) if _VERSION.fullmatch(entry.name))
        except OSError as error:
            raise RepositoryError(f"{self.path}: can't be read: {error.strerror}") from error

    def add(self, files: Mapping[str, bytes]) -> int:
        """Adds the next version. A reader sees all of it or nothing.

        Args:
            files: Content by file name.

        Returns:
            The number of the new version.

        Raises:
            RepositoryError: The directory can't be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(dir=self.path, prefix=_ADDING))
            try:
                staging.chmod(0o755)  # mkdtemp allows only this user, but the server may run as another
                for name, content in files.items():
                    _write(staging / name, content)
                return self._take_next_version(staging)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        except OSError as error:
            raise RepositoryError(f"{error.filename or self.path}: {error.strerror}") from error

    def remove(self, versions: Collection[int]) -> None:
        """Removes versions. A reader sees all of a version or nothing. Their numbers are never used again.

        Raises:
            RepositoryError: The directory can't be written.
        """
        replace_file(self.path / _HIGHEST_REMOVED, f"{max(*versions, self._highest_removed())}\n")
        try:
            hidden = Path(tempfile.mkdtemp(dir=self.path, prefix=_REMOVING))
            for version in versions:
                (self.path / str(version)).rename(hidden / str(version))
            for leftover in self.path.glob(f"{_REMOVING}*"):  # including those of a removal that was killed
                shutil.rmtree(leftover)
        except OSError as error:
            raise RepositoryError(f"{error.filename or self.path}: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the lock that everyone who changes labels or removes versions takes. Readers do not need it.

        Raises:
            RepositoryError: The directory can't be written.
        """
        with contextlib.ExitStack() as held:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                fcntl.flock(held.enter_context((self.path / _LOCK).open("a")), fcntl.LOCK_EX)
            except OSError as error:
                raise RepositoryError(f"{self.path}: can't be changed: {error.strerror}") from error
            yield

    def _take_next_version(self, staging: Path) -> int:
        while True:  # another exporter may take the number first; a rename never replaces a directory with files in it
            # The versions are read first: a removal records its number before it removes the version.
            version = max(*self.versions(), 0, self._highest_removed()) + 1
            try:
                staging.rename(self.path / str(version))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                return version

    def _highest_removed(self) -> int:
        path = self.path / _HIGHEST_REMOVED
        try:
            return int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0
        except ValueError as error:
            raise RepositoryError(f"{path}: does not contain the number of a version") from error
        except OSError as error:
            raise RepositoryError(f"{path}: {error.strerror}") from error


def directories(parent: Path) -> list[Path]:
    """Returns all directories inside another one, in any order.

    Raises:
        RepositoryError: It does not exist or can't be read.
    """
    try:
        return _directories(parent)
    except OSError as error:
        raise RepositoryError(f"{parent}: not a model repository: {error.strerror}") from error


def _directories(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if _may_be_directory(entry)]


def _may_be_directory(path: Path) -> bool:
    """Whether it is a directory, or can't be looked at: whoever reads it then gets the error, and others don't."""
    try:
        return path.is_dir()
    except OSError:
        return True


def replace_file(path: Path, content: str | bytes) -> None:
    """Replaces a file atomically. A reader sees the old one or the new one.

    Raises:
        RepositoryError: The directory can't be written.
    """
    written = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        _write(written, content.encode() if isinstance(content, str) else content)
        written.replace(path)
    except OSError as error:
        raise RepositoryError(f"{error.filename or path}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):  # on a read-only disk this fails even if the file does not exist
            written.unlink()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
