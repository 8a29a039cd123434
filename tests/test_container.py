"""The container image where it can't be built: the Dockerfile's own commands in a clean environment.

`test_image.py` builds the image and runs it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from image import TOOLS

import serving

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")

pytestmark = pytest.mark.packages


def _stages() -> dict[str, str]:
    return {
        found[1]: found[2]
        for found in re.finditer(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    }


def _instructions(stage: str, name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", _stages()[stage], re.MULTILINE)


def _environment(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in _instructions(stage, "ENV") for pair in shlex.split(line))


@pytest.mark.skipif(os.geteuid() == 0 and all(map(shutil.which, TOOLS)), reason="make image does it, in a real image")
def test_the_cpu_image_serves_and_reports_its_health(tmp_path: Path) -> None:
    """Runs the image's RUN, ENTRYPOINT, CMD and HEALTHCHECK with /opt, /app and /build moved into a directory."""

    def moved(text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|app|build)\b", lambda found: f"{tmp_path}/{found[1]}", text)

    for stage in ("dependencies-cpu", "serving"):
        for copy in _instructions(stage, "COPY"):
            source, target = copy.split()
            destination = Path(moved(target))
            destination.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, destination)
    (run,) = _instructions("dependencies-cpu", "RUN")
    tools = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-euc", moved(run)], env=tools, check=True, capture_output=True, timeout=600)

    image = {**_environment("serving"), **_environment("cpu")}
    assert image["DIGITS_HOST"] == "0.0.0.0"
    environment = {
        **{name: moved(value).replace("$PATH", os.environ["PATH"]) for name, value in image.items()},
        "DIGITS_HOST": "127.0.0.1",
        "DIGITS_PORT": "0",
    }
    entry_point = [part for name in ("ENTRYPOINT", "CMD") for part in json.loads(_instructions("serving", name)[0])]
    program = Path(tmp_path, "opt", "venv", "bin", entry_point[0])
    server = subprocess.Popen(
        [program, *entry_point[1:]],
        env=environment,
        cwd=tmp_path / "app",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        announcement = server.stdout.readline()
        address = re.search(r" on (\S+) with CPUExecutionProvider", announcement)
        assert address, announcement + server.communicate(timeout=20)[1]
        health = json.loads(re.search(r"CMD (\[.*\])", _instructions("serving", "HEALTHCHECK")[0])[1])
        checked = subprocess.run(
            [program, *health[1:]],
            env={**environment, "DIGITS_TARGET": address[1]},
            cwd=tmp_path / "app",
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (checked.returncode, checked.stdout) == (0, "SERVING\n"), checked.stderr
    finally:
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=30)
    assert server.returncode == 0, stderr
    assert list((tmp_path / "app").rglob("__pycache__")) == []


def test_the_images_contain_only_what_serves_and_run_unprivileged() -> None:
    copied = [copy.split()[0] for stage in _stages() for copy in _instructions(stage, "COPY") if "--from" not in copy]
    assert sorted(copied) == ["LICENSE", "protos", "requirements/cpu.txt", "requirements/gpu.txt", "serving"]
    assert _instructions("serving", "USER") == ["10001"]
    assert _environment("gpu")["DIGITS_PROVIDER"] == "cuda"
    allowed = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {"!LICENSE", "!requirements", "!protos", "!serving"}


def test_the_label_names_the_version_that_is_in_it() -> None:
    (labels,) = _instructions("serving", "LABEL")
    assert dict(pair.split("=", 1) for pair in shlex.split(labels))["org.opencontainers.image.version"] == (
        serving.__version__
    )
