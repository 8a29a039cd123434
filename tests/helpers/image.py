"""Builds the container image with Debian's buildah and runs it, without a container engine and without a registry."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = ("buildah", "mmdebstrap", "unshare")

# The Dockerfile's base, for the machine's own release: Debian's Python in the places where the official image has it.
_PACKAGES = "ca-certificates,passwd,python3-pip,python3-venv"
_HOOK = 'ln -s /usr/bin/python3 "$1/usr/local/bin/python"'
# Settings of pip that lead to a package index; the build needs this machine's.
_INDEX_SETTINGS = ("cert", "client-cert", "index-url", "extra-index-url", "proxy", "timeout", "trusted-host")

# What an engine does for `run --read-only --cap-drop all --network host`: the process is number 1 of its own process
# namespace, and sees nothing of this machine but its devices, addresses and control groups.
_ISOLATED = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
_RUN = """
set -eu
root=$1 user=$2 directory=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
exec chroot --userspec="$user" "$root" env --ignore-environment --chdir="$directory" "$@"
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A built image.

    Attributes:
        root: Its file system.
        config: What the Dockerfile says about running it, in Docker's names: Env, User, Entrypoint, Cmd, Labels, …
    """

    root: Path
    config: Mapping[str, Any]

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, entry: bool = True) -> subprocess.Popen[str]:
        """Starts a container, like `docker run --read-only --network host --env … IMAGE ARGUMENTS`.

        Args:
            arguments: Replace the image's own, if there are any.
            env: Variables beside the image's.
            entry: Whether the arguments go to the image's entry point; else they are the command.
        """
        command = [*self.config["Entrypoint"], *(arguments or self.config["Cmd"])] if entry else arguments
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (env or {}).items())]
        place = [self.root, self.config["User"], self.config["WorkingDir"]]
        return subprocess.Popen(
            [*_ISOLATED, "sh", "-c", _RUN, "sh", *place, *variables, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Starts a container and waits until it ends; arguments as for `start`."""
        with self.start(*arguments, **options) as process:
            try:
                stdout, stderr = process.communicate(timeout=60)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)


def main_process(container: subprocess.Popen[str]) -> int:
    """The number, on this machine, of a container's process 1."""
    (child,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
    return int(child)


def stop(container: subprocess.Popen[str]) -> tuple[int, str]:
    """Sends a container SIGTERM, like `docker stop`; returns the exit code and what it wrote to stderr."""
    os.kill(main_process(container), signal.SIGTERM)
    _, stderr = container.communicate(timeout=30)
    return container.returncode, stderr


@contextlib.contextmanager
def build_image(work: Path, *, revision: str) -> Iterator[Image]:
    """Builds the target `cpu` of the Dockerfile.

    Args:
        work: A directory for buildah's store, some 2 GB, which is removed in the end.
        revision: The commit that the image is told.
    """
    buildah = ["buildah", "--root", str(work / "store"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]

    def call(*command: str | Path) -> str:
        done = subprocess.run([*buildah, *command], stdout=subprocess.PIPE, text=True, check=True, timeout=600)
        return done.stdout.strip()

    try:
        python = _make_base(work, call)
        call(
            *("build", "--isolation", "chroot", "--format", "docker", "--pull-never", "--target", "cpu"),
            *("--build-arg", f"PYTHON={python}", "--build-arg", f"REVISION={revision}", *_pip_volumes(work)),
            *("--tag", "digits-serving:cpu", ROOT),
        )
        document = json.loads(call("inspect", "--type", "image", "digits-serving:cpu"))
        container = call("from", "--pull-never", "digits-serving:cpu")
        yield Image(root=Path(call("mount", container)), config=document["Docker"]["config"])
        call("umount", container)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make_base(work: Path, call: Any) -> str:
    """Makes the image `python:VERSION-slim`, as which the Dockerfile begins, and returns its version of Python."""
    archive = work / "base.tar"
    release = _release()
    subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=apt", f"--include={_PACKAGES}", "--dpkgopt=force-unsafe-io"]
        + [f"--dpkgopt=path-exclude={path}" for path in ("/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*")]
        + [f"--customize-hook={_HOOK}", release, archive],
        check=True,
        timeout=600,
    )
    container = call("from", "scratch")
    call("add", "--quiet", container, archive, "/")
    archive.unlink()
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = call("run", "--isolation", "chroot", container, "--", "python", "-c", program)
    call("commit", "--quiet", "--rm", container, f"docker.io/library/python:{python}-slim")
    return python


def _release() -> str:
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"].strip('"')


def _pip_volumes(work: Path) -> list[str]:
    """Lets pip in the build reach the package index that pip on this machine reaches; leaves nothing in the image."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    found = dict(line.split("=", 1) for line in listed.stdout.splitlines())
    settings = {name.rpartition(".")[2]: ast.literal_eval(value) for name, value in found.items()}
    lines = ["[global]"]
    volumes = [f"{work / 'pip.conf'}:/etc/pip.conf:ro"]
    for name in _INDEX_SETTINGS:
        value = " ".join(part for part in settings.get(name, "").split() if not part.startswith("file:"))
        if value:
            lines.append(f"{name} = {value}")
        if value and name.endswith("cert"):
            volumes.append(f"{value}:{value}:ro")
    (work / "pip.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [part for volume in volumes for part in ("--volume", volume)]
