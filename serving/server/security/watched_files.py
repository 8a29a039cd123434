"""Files that may change while the server runs, and what was made of them last."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from serving.errors import UnusableFile

Made = TypeVar("Made")

# A file that changed so shortly before it was read may change again within the same tick of the file system's clock.
_SETTLED_NS = 2_000_000_000
_TRIES = 3

_logger = logging.getLogger(__name__)


class WatchedFiles(Generic[Made]):
    """Some files that belong together. Safe to use from several threads.

    Nothing runs in the background: whoever needs the files asks, and the asking costs one `stat` a file. Links are
    followed, so that a directory's swap, as Kubernetes does it, is seen.

    Args:
        paths: The files.
        make: Makes something of their contents; raises `UnusableFile` where it can't.
    """

    def __init__(self, paths: tuple[Path, ...], make: Callable[..., Made]) -> None:
        self._paths = paths
        self._make = make
        self._lock = threading.Lock()
        self._marks: object = None
        self._settled = False
        self._contents: tuple[bytes, ...] = ()
        self._made: Made | None = None
        self._refusal = ""

    def load(self) -> Made:
        """Reads the files for the first time.

        Raises:
            UnusableFile: One is missing, unreadable or not what it should be.
        """
        with self._lock:
            self._read()
            return self._loaded()

    def current(self) -> Made:
        """What the files hold now, or held last where they can't be used; that is logged, once."""
        with self._lock:
            if not self._settled or self._marks != self._marks_now():
                try:
                    self._read()
                    self._refusal = ""
                except UnusableFile as error:
                    if str(error) != self._refusal:
                        self._refusal = str(error)
                        _logger.error("%s; what was read before stays in use", error)
            return self._loaded()

    def _read(self) -> None:
        for _ in range(_TRIES):
            self._marks = self._marks_now()
            self._settled = all(abs(time.time_ns() - mark[0]) > _SETTLED_NS for mark in self._marks)
            contents = tuple(_content(path) for path in self._paths)
            if self._marks == self._marks_now():  # else they were replaced meanwhile, and may not belong together
                break
        if contents == self._contents:
            return
        made = self._make(*contents)
        if self._made is not None:
            _logger.info("read again, since it changed: %s", ", ".join(map(str, self._paths)))
        self._made, self._contents = made, contents

    def _loaded(self) -> Made:
        if self._made is None:
            raise RuntimeError("the files were not loaded")
        return self._made

    def _marks_now(self) -> list[tuple[int, ...]]:
        return [_mark(path) for path in self._paths]


def _mark(path: Path) -> tuple[int, ...]:
    """Changes whenever the file does; the time of its last change comes first."""
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
