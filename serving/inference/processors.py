"""The number of processors that this process may use. In a container the host often has more."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the processors in the affinity mask, or fewer if the cgroup has a lower CPU quota; at least 1.

    Args:
        cgroup: Mount point of the cgroup file system.
    """
    quota = _quota_v2(cgroup / "cpu.max") or _quota_v1(cgroup / "cpu")
    allowed = len(os.sched_getaffinity(0))
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota_v2(file: Path) -> float | None:
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _quota_v1(directory: Path) -> float | None:
    try:
        quota = int((directory / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((directory / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
