"""A number that a supervisor sets and its workers read: all of them see a change at the same moment."""

from __future__ import annotations

import mmap
import os
import struct

_BYTES = struct.calcsize("Q")


class SharedNumber:
    """Eight bytes of memory that processes share. Its file descriptor is handed to those that read it.

    Args:
        descriptor: What `descriptor` of the process that made it was, as this process inherited it; None to make it.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("digits-rollout") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, _BYTES)
        self._memory = mmap.mmap(self.descriptor, _BYTES)
        # Aligned and as long as a register: a reader sees the old number or the new one, nothing in between.
        self._view = memoryview(self._memory).cast("Q")

    def get(self) -> int:
        """The number; 0 until it is set."""
        return self._view[0]

    def set(self, number: int) -> None:
        """Changes it for every process."""
        self._view[0] = number

    def close(self) -> None:
        """Gives the memory back."""
        self._view.release()
        self._memory.close()
        os.close(self.descriptor)
