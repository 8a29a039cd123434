"""What a container's first process does for others: it waits for those that nobody waits for."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def reap_orphans() -> None:
    """As process 1, waits for what others left behind.

    Our own children are waited for where they were started; each leads a session, which orphans hardly do.
    """
    for pid in map(int, Path("/proc/self/task/1/children").read_text(encoding="ascii").split()):
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.getsid(pid) != pid:
                os.waitpid(pid, os.WNOHANG)
