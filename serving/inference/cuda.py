"""Checks what CUDA needs on this machine: the driver, a device and the libraries, as the dynamic loader finds them."""

from __future__ import annotations

import ctypes

from serving.errors import install_hint

# The libraries that ONNX Runtime's CUDA provider needs for our networks (CUDA 13, cuDNN 9). It loads cuFFT only for
# Fourier transforms.
LIBRARIES = (
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)

_DRIVER = "libcuda.so.1"


def driver_problem(device: int = 0) -> str | None:
    """Returns why the NVIDIA driver is not usable, or None if it finds the device of this index."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"the NVIDIA driver is not installed or not visible ({_DRIVER} not found)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no GPU"
    if device >= count.value:
        return f"there is no CUDA device {device}: the NVIDIA driver finds {count.value}, counted from 0"
    return None


def unavailable_reason(device: int = 0) -> str | None:
    """Returns one sentence on what a device needs and how to install it, or None if nothing is missing.

    The loader finds libraries from wheels only after `onnxruntime.preload_dlls()` has loaded them.
    """
    if problem := driver_problem(device):
        if driver_problem() is None:
            return problem
        return (
            f"{problem}; install a driver for CUDA 13 (580 or newer), or give the container access to the GPU "
            "(docker run --gpus all)"
        )
    if missing := [name for name in LIBRARIES if not _loads(name)]:
        return (
            f"libraries are missing: {', '.join(missing)}; {install_hint('gpu')}; "
            "or install CUDA 13 and cuDNN 9 yourself"
        )
    return None


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
