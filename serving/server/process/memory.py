"""Memory that large requests leave behind goes back to the system.

The C library keeps what is freed for the next request, and after a volley of large ones that is most of a gigabyte. It
gives back single large blocks at once if it is told to, and the rest when it is asked.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

from serving.server.telemetry.calls import Call

# Blocks of this size go back as soon as they are freed. By default the limit rises to 32 MiB with the first such block.
_LARGE_BYTES = 1 << 20
# The rest goes back when memory is this far above the least that it was, which is looked up this long after a call.
_SPARE_BYTES = 32 << 20
_PAUSE_S = 1.0
# Where there was nothing to give back, as after another model was loaded, it is looked up less and less often.
_LONGEST_PAUSE_S = 8.0

_M_MMAP_THRESHOLD = -3  # of glibc's mallopt
_STATM = Path("/proc/self/statm")


class MemoryTrimmer:
    """Gives memory back after calls, at most once a second and not on the event loop. An observer of calls.

    Does nothing where the C library is not glibc.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._is_able = hasattr(self._library, "malloc_trim") and _STATM.exists()
        self._least_bytes = 0
        self._is_due = False
        self._pause_s = _PAUSE_S

    def start(self) -> None:
        """Lets large blocks go back at once. Called once the models are loaded: what they need stays."""
        if self._is_able:
            self._library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
            self._least_bytes = _resident_bytes()

    def call_ended(self, call: Call, code: str, seconds: float) -> None:
        """Looks at the memory in a moment."""
        self._look_soon()

    def request_ended(self, request: Call, code: str, seconds: float) -> None:
        """Looks at the memory in a moment: a stream may last for days."""
        self._look_soon()

    def calls_ended(self, method: str, model: str, version: str, code: str, seconds: Sequence[float]) -> None:
        """Looks at the memory in a moment."""
        self._look_soon()

    def _look_soon(self) -> None:
        if self._least_bytes and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(self._pause_s, self._look)

    def _look(self) -> None:
        self._is_due = False
        now = _resident_bytes()
        self._least_bytes = min(self._least_bytes, now)
        if now > self._least_bytes + _SPARE_BYTES:
            asyncio.get_running_loop().run_in_executor(None, self._trim)

    def _trim(self) -> None:
        before = _resident_bytes()
        self._library.malloc_trim(ctypes.c_size_t(0))
        gave_back = _resident_bytes() < before - _LARGE_BYTES
        self._pause_s = _PAUSE_S if gave_back else min(2 * self._pause_s, _LONGEST_PAUSE_S)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
