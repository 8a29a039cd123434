"""Every command and snippet of the README is run, here or where noted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.client import Client

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# make test is what .ci/run calls; make train export … runs in test_whole_path where MNIST is present.
ELSEWHERE = {"make test", "make train export"}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands(start: str) -> list[str]:
    return [line for block in _blocks("sh") for line in block.splitlines() if line.startswith(start)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def test_every_command_is_known_to_a_test() -> None:
    lines = {line for block in _blocks("sh") for line in block.splitlines()}
    known = {*_commands("digits-"), *_commands("pip "), *_commands("docker "), "make run", *ELSEWHERE}
    assert lines == known
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_digits_commands_and_the_snippet_work_in_order(tmp_path: Path) -> None:
    """In a directory like a fresh clone's root; the ports are free ones in place of the README's."""
    ports = {"50051": str(_free_port()), "50052": str(_free_port())}
    (tmp_path / "serving").mkdir()
    shutil.copytree(ROOT / "serving" / "samples", tmp_path / "serving" / "samples")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DIGITS_PORT": ports["50051"],
        "DIGITS_TARGET": f"127.0.0.1:{ports['50051']}",
    }

    def with_ports(text: str) -> str:
        return re.sub("|".join(ports), lambda found: ports[found[0]], text)

    servers = []
    try:
        printed = {}
        for line in _commands("digits-"):
            if line.endswith("&"):
                command = with_ports(line.removesuffix("&")).split()
                servers.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
                with Client(f"127.0.0.1:{ports['50052' if '50052' in line else '50051']}") as client:
                    client.wait_until_serving(30)
                continue
            done = subprocess.run(
                with_ports(line),
                shell=True,
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr
            printed[line] = done.stdout
        assert "(5·5·32 + 1)·64 = 51,264; valid: 12 − 5 + 1 = 8" in printed["digits-train summary convnet_5x5_binary"]
        assert len(servers) == 2
        (snippet,) = _blocks("python")
        done = subprocess.run(
            [sys.executable, "-c", with_ports(snippet)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == "(3000,) (3000, 10) mnist_convnet 1\n", done.stderr
    finally:
        for server in servers:
            server.send_signal(signal.SIGTERM)
        for server in servers:
            assert server.wait(30) == 0
    assert [line.split()[1] for line in printed[_commands("digits-classify serving")[0]].splitlines()] == ["7", "4"]
    assert (tmp_path / "models" / "mnist_convnet" / "1" / "manifest.json").is_file()


@pytest.mark.packages
def test_make_run_in_a_fresh_clone_with_an_empty_home(tmp_path: Path) -> None:
    """The front door: nothing is there but Python, make and a package index."""
    clone, home, port = tmp_path / "clone", tmp_path / "home", _free_port()
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, files.stdout.split("\0")):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    run = subprocess.Popen(
        ["make", "run", f"PORT={port}", f"PYTHON={sys.executable}"],
        cwd=clone,
        env={**kept, "HOME": str(home), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C, which a terminal sends to all of a group, reaches these alone
    )
    shown = []
    for line in run.stdout:
        shown.append(line)
        if line.startswith("still serving"):
            break
    os.killpg(run.pid, signal.SIGINT)
    _, stderr = run.communicate(timeout=60)
    text = "".join(shown)
    assert f"serving mnist_convnet version 1 on 127.0.0.1:{port} with CPUExecutionProvider" in text, stderr
    captions = re.findall(r"(\d)  [\d.]+%", text)
    assert captions == [*"0123456789"]
    assert "stopping" in stderr
    assert "Traceback" not in stderr


def test_the_pinned_installation_and_the_container_are_what_other_tests_build() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert _commands("pip ")[0] == "pip install --require-hashes --requirement requirements/cpu.txt"
    for target in re.findall(r"--target (\w+)", "\n".join(_commands("docker "))):
        assert f" AS {target}\n" in dockerfile
