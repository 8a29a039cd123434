"""A reader types the README from top to bottom, and every command works."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pages import PAGES, ROOT, blocks, free_ports, lines, type_blocks

pytestmark = pytest.mark.slow

README = PAGES["README.md"]
BLOCKS = [(language, block) for language, block in blocks(README) if language != "text"]
BIN = Path(sys.executable).parent

# make run goes on serving, so it is started first; make test is what .ci/run calls; docker is in test_container.
ELSEWHERE = r"make run$|make test$|docker "


def _part(*headings: str) -> list[tuple[str, str]]:
    """The blocks of some sections."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
    return [block for heading in headings for block in blocks(sections[heading])]


@contextlib.contextmanager
def _make_run(directory: Path, port: str, environment: Mapping[str, str]) -> Iterator[list[str]]:
    """`make run` until it is interrupted as by Ctrl-C; what it printed."""
    run = subprocess.Popen(
        ["make", "run", f"PORT={port}", f"PYTHON={sys.executable}"],
        cwd=directory,
        env={**environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C, which a terminal sends to a whole group, reaches only these
    )
    shown: list[str] = []
    limit = threading.Timer(300, os.killpg, (run.pid, signal.SIGKILL))  # or a demo that fails would hang the test
    limit.start()
    try:
        for line in run.stdout:
            shown.append(line)
            if line.startswith("still serving"):
                break
        else:
            pytest.fail(run.communicate(timeout=60)[1])
        yield shown
    finally:
        limit.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGINT)
        _, stderr = run.communicate(timeout=60)
    assert "stopping" in stderr
    assert "Traceback" not in stderr


def test_it_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= 160


def test_it_has_the_picture() -> None:
    (picture,) = re.findall(r'<img src="(.*?)"', README)
    assert (ROOT / picture).stat().st_size < 60_000


def test_what_runs_elsewhere_is_run_there() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
    elsewhere = [line for _, block in BLOCKS for line in lines(block) if re.match(ELSEWHERE, line)]
    assert {line.split()[0] for line in elsewhere} == {"make", "docker"}


def test_every_command_works_in_order(tmp_path: Path) -> None:
    """In a directory like a clone that has its environments already; PATH has our commands only once one is active."""
    ports = free_ports()
    (tmp_path / "serving").symlink_to(ROOT / "serving")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".venv", ".venv-dev"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "bin").symlink_to(BIN)
        (tmp_path / name / ".installed").touch()
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if Path(part) != BIN)
    with _make_run(tmp_path, ports["50051"], os.environ) as shown:
        assert re.search(r"^draw a digit on http://127\.0\.0\.1:\d+$", "".join(shown), re.MULTILINE)
        printed = dict(type_blocks(BLOCKS, tmp_path, ports, path=path, skip=ELSEWHERE))

    def output(start: str) -> str:
        (found,) = [text for command, text in printed.items() if command.startswith(start)]
        return found

    assert [line.split()[1] for line in output("digits-classify serving").splitlines()] == ["7", "4"]
    assert output("import numpy") == "(3000,) (3000, 10) mnist_convnet 1\n"
    assert "(5·5·32 + 1)·64 = 51,264; valid: 12 − 5 + 1 = 8" in output("digits-train summary")
    assert output("digits-classify --target").split()[1] == "7"
    assert (tmp_path / "models" / "mnist_convnet" / "2" / "manifest.json").is_file()


@pytest.mark.packages
def test_a_fresh_clone_with_an_empty_home_serves_and_calls(tmp_path: Path) -> None:
    """The front door: nothing is there but Python, make and a package index."""
    clone, home, ports = tmp_path / "clone", tmp_path / "home", free_ports()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, files.stdout.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    with _make_run(clone, ports["50051"], {**kept, "HOME": str(home), "PATH": os.environ["PATH"]}) as shown:
        used = _part("Run it", "Classify your own images", "Call it from Python")
        printed = type_blocks(used, clone, ports, path=os.defpath, skip=ELSEWHERE)
    text = "".join(shown)
    assert f"serving mnist_convnet version 1 on 127.0.0.1:{ports['50051']} with CPUExecutionProvider" in text
    captions = re.findall(r"(\d)  [\d.]+%", text)
    assert captions == [*"0123456789"]
    assert len(printed) == 5
