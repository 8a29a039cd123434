"""Tests of CUDA run on a GPU, or on pretended libraries, which run ONNX Runtime's host code and compute nothing."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator

import pytest

from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.repository.repository import StoredModel


class PretendedCuda:
    """The pretended CUDA of this process; see tests/gpu/pretended/runtime.c. A pattern may end with *."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcudart.so.13")
        self._library.pretended_calls.restype = ctypes.c_long
        self._library.pretended_used.restype = ctypes.c_size_t

    def calls(self, pattern: str) -> int:
        """How often these functions were called since `forget`."""
        return self._library.pretended_calls(pattern.encode())

    def forget(self) -> None:
        """Begins to count anew."""
        self._library.pretended_forget()

    def fail(self, pattern: str, error: int, *, after: int = 0) -> None:
        """Lets these functions fail after so many calls that succeed."""
        self._library.pretended_fail(pattern.encode(), error, ctypes.c_long(after))

    def used_bytes(self) -> int:
        """Memory of the device that is allocated."""
        return self._library.pretended_used()


@pytest.fixture
def pretended() -> Iterator[PretendedCuda]:
    """The pretended CUDA of this process, without faults."""
    if "PRETENDED_CUDA" not in os.environ:
        pytest.skip("needs a C compiler and the GPU wheel: make seam runs it")
    found = PretendedCuda()
    found.fail("", 0)
    found.forget()
    yield found
    found.fail("", 0)


@pytest.fixture
def start_engine(shipped: StoredModel) -> Iterator[Callable[..., Engine]]:
    """Starts engines with the shipped model or another one, and closes them at the end."""
    engines = []

    def start(provider: str = "cuda", stored: StoredModel = shipped, **config: object) -> Engine:
        engine = Engine(
            stored.content,
            image_shape=stored.manifest.input.shape,
            classes=len(stored.manifest.labels),
            no_digit=stored.manifest.no_digit is not None,
            config=EngineConfig(provider=provider, **config),
        )
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.close()
