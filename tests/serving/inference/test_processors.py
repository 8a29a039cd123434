"""How many processors a container or a service may use."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from serving.inference.processors import available_processors, int8_kernels

V1 = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V2 = "41 31 0:38 {mounted} /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate"
OTHERS = """\
23 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
"""


@pytest.fixture
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 4, 7})


def _tree(root: Path, *, mount: str, mounted: str, own: str, quotas: dict[str, str]) -> Path:
    """Makes a root directory as the kernel shows it: mounts, the process's own group, and quotas by directory."""
    process = root / "proc" / "self"
    process.mkdir(parents=True)
    (process / "mountinfo").write_text(OTHERS + mount.format(mounted=mounted) + "\n")
    line = f"0::{own}" if mount == V2 else f"2:cpu,cpuacct:{own}\n0::/elsewhere"
    (process / "cgroup").write_text(f"4:memory:/\n{line}\n")
    for directory, quota in quotas.items():
        group = root / "sys/fs/cgroup" / ("cpu" if mount == V1 else "") / directory
        group.mkdir(parents=True, exist_ok=True)
        if mount == V2:
            (group / "cpu.max").write_text(f"{quota}\n")
        else:
            amount, period = quota.replace("max", "-1").split()
            (group / "cpu.cfs_quota_us").write_text(f"{amount}\n")
            (group / "cpu.cfs_period_us").write_text(f"{period}\n")
    return root


@pytest.mark.usefixtures("four_processors")
@pytest.mark.parametrize("mount", [V1, V2], ids=["cgroup v1", "cgroup v2"])
@pytest.mark.parametrize(
    ("mounted", "own", "quotas", "expected"),
    [
        pytest.param("/", "/", {"": "max 100000"}, 4, id="no quota"),
        pytest.param("/", "/", {"": "50000 100000"}, 1, id="half a processor"),
        pytest.param("/", "/", {"": "150000 100000"}, 2, id="one and a half"),
        pytest.param("/", "/", {"": "1600000 100000"}, 4, id="more than there are"),
        pytest.param("/", "/a.slice/b.service", {"a.slice/b.service": "200000 100000"}, 2, id="on its own group"),
        pytest.param(
            "/",
            "/a.slice/b.service",
            {"": "max 100000", "a.slice": "100000 100000", "a.slice/b.service": "300000 100000"},
            1,
            id="a lower one above",
        ),
        pytest.param("/", "/a.slice", {"b.slice": "100000 100000", "a.slice/c": "100000 100000"}, 4, id="of others"),
        pytest.param("/docker/1a", "/docker/1a", {"": "200000 100000"}, 2, id="a container's part of the host's"),
        pytest.param("/docker/1a", "/docker/1a/in", {"in": "200000 100000"}, 2, id="a group inside a container"),
        pytest.param("/", "/../b", {"": "300000 100000", "../b": "100000 100000"}, 3, id="outside of the namespace"),
        pytest.param("/docker/1a", "/", {"": "300000 100000"}, 3, id="a path that is not mounted"),
    ],
)
def test_the_lowest_quota_limits_the_count(
    tmp_path: Path, mount: str, mounted: str, own: str, quotas: dict[str, str], expected: int
) -> None:
    root = _tree(tmp_path, mount=mount, mounted=mounted, own=own, quotas=quotas)
    assert available_processors(root) == expected


@pytest.mark.usefixtures("four_processors")
def test_a_quota_that_is_no_number_does_not_count(tmp_path: Path) -> None:
    root = _tree(tmp_path, mount=V2, mounted="/", own="/a", quotas={"a": "nonsense", "": "200000 100000"})
    assert available_processors(root) == 2


@pytest.mark.usefixtures("four_processors")
def test_without_control_groups_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert available_processors(tmp_path) == 4


def test_the_quota_of_a_real_group() -> None:
    """Half a processor, set on a group that this test makes for one process."""
    if (tops := Path("/sys/fs/cgroup/cpu")).is_dir():
        files = {"cpu.cfs_quota_us": "50000"}
    else:
        tops, files = Path("/sys/fs/cgroup"), {"cpu.max": "50000 100000"}
    group = tops / f"digits-test-{os.getpid()}"
    try:
        group.mkdir()
        for name, text in files.items():
            (group / name).write_text(text)
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"this user can't make a control group with a quota: {error}")
    try:
        program = (
            "import os, sys, pathlib; pathlib.Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()));"
            "from serving.inference.processors import available_processors; print(available_processors())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(group)], capture_output=True, text=True, check=True, timeout=60
        )
    finally:
        group.rmdir()
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni avx_vnni", ("avx512_vnni", "avx_vnni")),
        ("flags\t\t: avx512_vnni amx_int8", ("amx_int8", "avx512_vnni")),
        ("Features\t: fp asimd asimddp", ("asimddp",)),
        ("flags\t\t: fpu avx2 avx512f", (platform.machine(),)),
        ("model name\t: avx512_vnni", (platform.machine(),)),
    ],
)
def test_what_computes_int8_is_read_from_the_processors_flags(
    tmp_path: Path, line: str, found: tuple[str, ...]
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert int8_kernels(tmp_path) == found
    assert int8_kernels(tmp_path / "none") == (platform.machine(),)
