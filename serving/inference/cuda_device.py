"""A CUDA device, through the runtime library that ONNX Runtime has loaded: whether it works, and pinned memory."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# cudaStreamCaptureModeThreadLocal
_THREAD_LOCAL = 1


class CudaDevice:
    """One device.

    Args:
        index: Its number, as CUDA counts.
    """

    def __init__(self, index: int) -> None:
        self._index = index
        self._runtime = ctypes.CDLL("libcudart.so.13")
        self._runtime.cudaGetErrorString.restype = ctypes.c_char_p

    def enter_thread(self) -> int:
        """Makes this the device of the calling thread; returns CUDA's status, 0 if it succeeded.

        While one thread captures a CUDA graph, the calls of all others fail, and so does the capture. Those that have
        entered are exempt, since they work on streams of their own (cudaThreadExchangeStreamCaptureMode).
        """
        mode = ctypes.c_int(_THREAD_LOCAL)
        exchanged: int = self._runtime.cudaThreadExchangeStreamCaptureMode(ctypes.byref(mode))
        entered: int = exchanged or self._runtime.cudaSetDevice(self._index)
        return entered

    def error(self) -> str | None:
        """Returns why this process can't use the device any more, or None if it can. Safe from any thread.

        After an illegal address, an error in its memory, or the loss of the device, all calls fail until the process
        ends, whatever they do (CUDA Runtime API, "sticky" errors).
        """
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        status = self.enter_thread() or self._runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        return self._text(status) if status else None

    def pinned(self, shape: Sequence[int], dtype: type) -> npt.NDArray[Any]:
        """Allocates an array in memory of the host that the device reads and writes itself. It is not cleared.

        The memory is freed with the last array that uses it.

        Raises:
            MemoryError: CUDA can't allocate it.
        """
        address, size = ctypes.c_void_p(), math.prod(shape) * np.dtype(dtype).itemsize
        status = self.enter_thread() or self._runtime.cudaHostAlloc(ctypes.byref(address), ctypes.c_size_t(size), 0)
        if status or not address.value:
            raise MemoryError(f"CUDA can't allocate {size} bytes of pinned memory: {self._text(status)}")
        memory = (ctypes.c_uint8 * size).from_address(address.value)
        weakref.finalize(memory, self._runtime.cudaFreeHost, address).atexit = False
        return np.asarray(memory).view(dtype).reshape(shape)

    def _text(self, status: int) -> str:
        text: bytes = self._runtime.cudaGetErrorString(status)
        return f"{text.decode()} (CUDA error {status})"
