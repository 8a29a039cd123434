"""The message when CUDA can't run: which part is missing, and how to install it."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable

import pytest

from serving.inference import cuda


class _Driver:
    """A fake of NVIDIA's driver library."""

    def __init__(self, init: int = 0, devices: int = 1) -> None:
        self._init, self._devices = init, devices

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, count) -> int:  # noqa: N802
        count._obj.value = self._devices
        return 0


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Fakes which libraries the loader finds, because the test machine may have no NVIDIA driver."""

    def make(driver: _Driver | None, missing: tuple[str, ...] = ()) -> None:
        def load(name: str) -> object:
            if (name == "libcuda.so.1" and driver is None) or name in missing:
                raise OSError(f"{name}: cannot open shared object file")
            return driver

        monkeypatch.setattr(ctypes, "CDLL", load)

    return make


@pytest.mark.parametrize(
    ("driver", "missing", "said"),
    [
        (None, (), r"driver is not installed .*libcuda\.so\.1.*driver for CUDA 13"),
        (_Driver(init=100), (), r"driver does not start \(cuInit returned 100\)"),
        (_Driver(devices=0), (), "finds no GPU.*--gpus all"),
        (
            _Driver(),
            ("libcudnn.so.9", "libcurand.so.10"),
            r"libcurand\.so\.10, libcudnn\.so\.9; pip install",
        ),
    ],
)
def test_the_message_says_what_is_missing_and_how_to_install_it(
    loader: Callable, driver: _Driver | None, missing: tuple[str, ...], said: str
) -> None:
    loader(driver, missing)
    assert re.search(said, cuda.unavailable_reason())


def test_the_message_says_which_devices_there_are(loader: Callable) -> None:
    loader(_Driver(devices=2))
    assert cuda.unavailable_reason(1) is None
    assert cuda.unavailable_reason(2) == "there is no CUDA device 2: the NVIDIA driver finds 2, counted from 0"


def test_cufft_is_not_needed(loader: Callable) -> None:
    loader(_Driver(), missing=("libcufft.so.12",))
    assert cuda.unavailable_reason() is None


def test_there_is_no_message_if_nothing_is_missing(loader: Callable) -> None:
    loader(_Driver())
    assert cuda.unavailable_reason() is None
