"""How many processors a container may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.inference.processors import available_processors


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", 2), ("50000 100000", 1), ("150000 100000", 2), ("1600000 100000", 2), ("nonsense", 2)],
)
def test_the_quota_of_cgroup_version_2_limits_the_count(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_processors(tmp_path) == expected


@pytest.mark.usefixtures("two_processors")
@pytest.mark.parametrize(("quota", "expected"), [("-1", 2), ("100000", 1), ("400000", 2)])
def test_the_quota_of_cgroup_version_1_limits_the_count(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_processors(tmp_path) == expected


@pytest.mark.usefixtures("two_processors")
def test_without_a_cgroup_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert available_processors(tmp_path / "absent") == 2
