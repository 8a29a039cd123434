"""The file of a Unix socket: what is left of a server that was killed is removed, what is in use is not."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

from serving.errors import StartFailed


def free_socket_file(path: Path) -> None:
    """Makes sure that a server can listen at a path. Removes a socket there that nobody listens on any more.

    gRPC itself would replace the socket of a server that runs.

    Raises:
        StartFailed: As for `check_socket_file`.
    """
    check_socket_file(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _failure(path, error.strerror) from error


def check_socket_file(path: Path) -> None:
    """Checks that a server could listen at a path. Changes nothing.

    Raises:
        StartFailed: Another server listens there, it is another kind of file, or its directory can't be written.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        kind = 0
    except OSError as error:
        raise _failure(path, error.strerror) from error
    if kind and not stat.S_ISSOCK(kind):
        raise _failure(path, "there is a file that is no socket")
    if kind and _is_in_use(path):
        raise _failure(path, "another server listens there")
    if not path.parent.is_dir():
        raise _failure(path, f"there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise _failure(path, f"this user can't write to {path.parent}")


def _is_in_use(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a full backlog means that somebody listens
        return probe.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _failure(path: Path, reason: str | None) -> StartFailed:
    return StartFailed(f"can't listen on unix:{path}: {reason}")
