"""A few seconds of chaos; `make chaos` runs two minutes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_chaos_ends_with_right_answers(front: str) -> None:
    chaos = Path(__file__).parents[3] / "manual" / "chaos.py"
    done = subprocess.run(
        [sys.executable, chaos, "--seconds", "10", "--front", front],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {what: int(count.replace(",", "")) for count, what in re.findall(r"^ *([\d,]+)  (.+)$", done.stdout, re.M)}
    for what in (
        "calls",
        "stream answers",
        "cancelled calls",
        "operator: kill",
        "operator: reload",
        "strangers: garbage",
    ):
        assert counts[what] > 0, done.stdout
    assert done.stdout.endswith("no wrong answer, no lost call, nothing hung\n")


def test_a_moment_of_soak_has_right_answers(front: str) -> None:
    """Only the ten minutes of `make soak` can show that memory grows, so this test ignores memory."""
    soak = Path(__file__).parents[3] / "manual" / "soak.py"
    done = subprocess.run(
        [sys.executable, soak, "--seconds", "3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "DIGITS_FRONT": front},
    )
    assert done.stderr in {"", "Error: memory grew\n"}
    calls = re.match(r"([\d,]+) calls; MB of each worker", done.stdout)
    assert int(calls[1].replace(",", "")) > 0
