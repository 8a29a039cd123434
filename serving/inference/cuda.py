"""What this machine lacks for CUDA: the driver, a device, or one of the libraries. Asks the loader, not the wheels."""

from __future__ import annotations

import ctypes

# What onnxruntime's CUDA provider links against (CUDA 13, cuDNN 9).
LIBRARIES = (
    "libcudart.so.13",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcurand.so.10",
    "libcufft.so.12",
    "libcudnn.so.9",
)

_DRIVER = "libcuda.so.1"


def missing_libraries() -> list[str]:
    """Those of `LIBRARIES` that the loader does not find.

    Libraries that come as wheels are found only after `onnxruntime.preload_dlls()` has loaded them.
    """
    return [name for name in LIBRARIES if not _loads(name)]


def driver_problem() -> str | None:
    """Why the NVIDIA driver can't run anything here, or None where it sees a device."""
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"the NVIDIA driver is not installed or not visible ({_DRIVER} not found)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver does not start (cuInit returned {status})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver sees no GPU"
    return None


def explain_absence() -> str | None:
    """One sentence on what is missing and how to get it, or None where nothing is."""
    problem = driver_problem()
    if problem:
        return (
            f"{problem}; install a driver for CUDA 13 (580 or newer), or in a container pass the GPU in "
            "(docker run --gpus all)"
        )
    missing = missing_libraries()
    if missing:
        return (
            f"libraries are missing: {', '.join(missing)}; pip install 'digits-serving[gpu]' brings them, "
            "or install CUDA 13 and cuDNN 9"
        )
    return None


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
