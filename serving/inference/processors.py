"""The processors: how many this process may use, and what they compute int8 with."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# Instructions that multiply bytes and add the products without saturating, by their names in /proc/cpuinfo; the best
# first. ONNX Runtime uses them where they exist, and they all give the same sums.
_DOT_PRODUCTS = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp")


def int8_kernels(root: Path = Path("/")) -> tuple[str, ...]:
    """Returns what computes int8 here: instructions of this processor, the best first.

    Without any of them ONNX Runtime takes others, which saturate in sums of uint8 and int8 products, so that a proof
    made elsewhere does not hold. The name is then that of the machine, such as `x86_64`.

    Args:
        root: The directory that contains `proc`.
    """
    flags: set[str] = set()
    for line in _lines(root / "proc/cpuinfo"):
        title, _, values = line.partition(":")
        if title.strip() in ("flags", "Features"):
            flags.update(values.split())
    return tuple(name for name in _DOT_PRODUCTS if name in flags) or (platform.machine(),)


def available_processors(root: Path = Path("/")) -> int:
    """Returns the processors in the affinity mask, or fewer if a control group has a lower CPU quota; at least 1.

    A quota may be set on the process's own group, as systemd does, or on any group above it. The lowest one counts.

    Args:
        root: The directory that contains `proc` and the mounted control groups.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return max(1, min(allowed, math.ceil(min(quotas, default=allowed))))


def _groups(root: Path) -> Iterator[Path]:
    """Yields the directories of this process's control groups and of those above them, in both versions of cgroups.

    The formats of both files are in cgroups(7) and proc_pid_mountinfo(5).
    """
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):  # such as 3:cpu,cpuacct:/system.slice/digits.service
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))  # version 2 names no controllers
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, file_system = line.partition(" - ")
        kind, *_, options = file_system.split()
        controller = {"cgroup2": "", "cgroup": "cpu"}.get(kind)
        if controller is None or (controller and controller not in options.split(",")):
            continue
        _, _, _, mounted, mount_point, *_ = mount.split()
        top = root / mount_point.lstrip("/")
        group = PurePosixPath(paths.get(controller, mounted))
        # In a container the process's path may be that of the host, of which only a part is mounted, or start with ..
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        yield from (top / each for each in (inside, *inside.parents) if ".." not in each.parts)


def _quota(group: Path) -> float | None:
    """Returns how many processors a control group may use; None if it has no quota."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
