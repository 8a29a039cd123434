"""Files that may change while the server runs, parsed again when they do.

Ours instead of a library because those report changes a while later, from a thread: a handshake needs the current file.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from serving.errors import UnusableFile

Parsed = TypeVar("Parsed")

# A file that was changed this shortly before it was read may change again without a new timestamp.
_SETTLED_NS = 2_000_000_000
_ATTEMPTS = 3

_logger = logging.getLogger(__name__)


class WatchedFiles(Generic[Parsed]):
    """Files that belong together, such as a certificate and its key. Thread-safe.

    Nothing runs in the background: each use checks the files, with one `stat` per file. Links are followed, so the
    directory swaps of Kubernetes are noticed.

    Args:
        paths: The files.
        parse: Parses their contents; raises `UnusableFile` if it can't.
    """

    def __init__(self, paths: tuple[Path, ...], parse: Callable[..., Parsed]) -> None:
        self._paths = paths
        self._parse = parse
        self._lock = threading.Lock()
        self._fingerprints: object = None
        self._settled = False
        self._contents: tuple[bytes, ...] = ()
        self._parsed: Parsed | None = None
        self._logged_error = ""

    def load(self) -> Parsed:
        """Reads the files for the first time.

        Raises:
            UnusableFile: A file is missing, unreadable or invalid.
        """
        with self._lock:
            self._read()
            return self._loaded()

    def current(self) -> Parsed:
        """Returns the current content. While the files are unusable it is the last good one; the error is logged once.

        Raises:
            RuntimeError: `load` was not called.
        """
        with self._lock:
            if not self._settled or self._fingerprints != self._current_fingerprints():
                try:
                    self._read()
                    self._logged_error = ""
                except UnusableFile as error:
                    if str(error) != self._logged_error:
                        self._logged_error = str(error)
                        _logger.error("%s; the previous content stays in use", error)
            return self._loaded()

    def _read(self) -> None:
        for _ in range(_ATTEMPTS):
            self._fingerprints = self._current_fingerprints()
            self._settled = all(abs(time.time_ns() - each[0]) > _SETTLED_NS for each in self._fingerprints)
            contents = tuple(_content(path) for path in self._paths)
            if self._fingerprints == self._current_fingerprints():  # else they may be from two generations
                break
        if contents == self._contents:
            return
        parsed = self._parse(*contents)
        if self._parsed is not None:
            _logger.info("reloaded after a change: %s", ", ".join(map(str, self._paths)))
        self._parsed, self._contents = parsed, contents

    def _loaded(self) -> Parsed:
        if self._parsed is None:
            raise RuntimeError("the files were not loaded")
        return self._parsed

    def _current_fingerprints(self) -> list[tuple[int, ...]]:
        return [_fingerprint(path) for path in self._paths]


def _fingerprint(path: Path) -> tuple[int, ...]:
    """Differs whenever the file has changed. Its first element is the modification time."""
    try:
        stat = path.stat()
    except OSError:
        return (0,)
    return (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino, stat.st_dev)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnusableFile(f"can't read {path}: {os.strerror(error.errno or 0)}") from error
