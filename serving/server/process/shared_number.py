"""A number in shared memory that the supervisor sets and its workers read, so that all see a change at the same moment.

Ours, since `multiprocessing` shares a value only with processes that it spawns itself.
"""

from __future__ import annotations

import mmap
import os
import struct

_BYTES = struct.calcsize("Q")


class SharedNumber:
    """An unsigned 64-bit integer in memory that several processes map.

    Args:
        descriptor: File descriptor of the memory, inherited from the process that created it; None to create it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("digits-rollout") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, _BYTES)
        self._memory = mmap.mmap(self.descriptor, _BYTES)
        # An aligned word: a reader gets either the old number or the new one.
        self._view = memoryview(self._memory).cast("Q")

    def get(self) -> int:
        """Returns the number; 0 until it is set."""
        return self._view[0]

    def set(self, number: int) -> None:
        """Changes the number for every process."""
        self._view[0] = number

    def close(self) -> None:
        """Unmaps the memory and closes its descriptor."""
        self._view.release()
        self._memory.close()
        os.close(self.descriptor)
