"""What an installation contains, in fresh environments made from the package index with pip."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.packages


def _run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    # a copy, since building in place would leave files
    for name in ("training", "export", "serving", "protos", "examples"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def environment(tmp_path: Path) -> Callable[..., Path]:
    """Makes an environment without pip or setuptools, and installs into it."""

    def make(*requirements: object) -> Path:
        home = tmp_path / "environment"
        _run(sys.executable, "-m", "venv", "--without-pip", home)
        python = home / "bin" / "python"
        _run(
            sys.executable, "-m", "uv", "pip", "install", "-q", "--compile-bytecode", "--python", python, *requirements
        )
        return home

    return make


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """The releases that are pinned for a server, as constraints: the size of later ones is not ours to test."""
    text = (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8")
    (tmp_path / "constraints.txt").write_text("\n".join(re.findall(r"^[\w.-]+==[^\\\n]+", text, re.MULTILINE)))
    return tmp_path / "constraints.txt"


def _site_packages(home: Path) -> Path:
    (found,) = (home / "lib").glob("python*/site-packages")
    return found


def test_the_wheel_holds_the_packages_the_model_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"training", "export", "serving", "protos"}
    assert "serving/pretrained/mnist_convnet/1/model.onnx" in names
    assert "serving/pretrained/mnist_convnet/1/manifest.json" in names
    assert {f"serving/samples/{digit}.png" for digit in range(10)} <= names
    assert {f"serving/server/http/page/{name}" for name in ("index.html", "page.css", "page.js", "icon.svg")} <= names
    assert {"protos/digits/v1/digits.proto", "protos/inference/inference.proto"} <= names


def test_the_server_s_environment_stays_small_and_serves_without_the_extra_native_again(
    wheel: Path, environment: Callable, pinned: Path, start_server: Callable
) -> None:
    home = environment("--constraint", pinned, f"{wheel}[cpu,native]")
    size = sum(file.stat().st_size for file in _site_packages(home).rglob("*") if file.is_file())
    assert size < 200e6, f"{size / 1e6:.0f} MB"
    assert not (_site_packages(home) / "pip").exists()
    said = subprocess.run([home / "bin" / "digits-train"], capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 1
    assert "pip install '.[train,cpu]'" in said.stderr
    with start_server("--front", "auto", program=home / "bin" / "digits-serve") as served:
        assert "front end: native" in served.stop()[1]
    _run(sys.executable, "-m", "uv", "pip", "uninstall", "-q", "--python", home / "bin" / "python", "pygrpc-native")
    with start_server("--front", "auto", program=home / "bin" / "digits-serve") as served:
        sample = ROOT / "serving" / "samples" / "4.png"
        assert _run(home / "bin" / "digits-classify", "--target", served.address, sample, cwd=home).split()[1] == "4"
        assert "front end: grpcio, since pygrpc-native is not installed" in served.stop()[1]
    said = subprocess.run(
        [home / "bin" / "digits-serve", "--front", "native"], capture_output=True, text=True, check=False, timeout=60
    )
    assert said.returncode == 1
    assert said.stderr.endswith(
        "--front native needs the extra native: pip install '.[native]' in a checkout of digits-serving\n"
    )
    said = subprocess.run(
        [home / "bin" / "digits-export", ROOT / "README.md", "--repository", "r"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 1
    assert "pip install '.[train,cpu]'" in said.stderr


def test_the_base_package_is_a_client_and_works_next_to_tritonclient(
    wheel: Path, environment: Callable, server, tmp_path: Path
) -> None:
    home = environment(wheel, "tritonclient[grpc]>=2.73")
    sample = ROOT / "serving" / "samples" / "4.png"
    printed = _run(home / "bin" / "digits-classify", "--target", server.address, sample, cwd=tmp_path)
    assert printed.split()[1] == "4"
    program = """
import tritonclient.grpc
import numpy as np
from serving.client import Client
import sys
with Client(sys.argv[1]) as client:
    print(client.classify(np.zeros((3, 28, 28), np.uint8)).labels.shape)
"""
    assert _run(home / "bin" / "python", "-c", program, server.address, cwd=tmp_path) == "(3,)\n"
    assert not (_site_packages(home) / "onnxruntime").exists()
    said = subprocess.run([home / "bin" / "digits-serve"], capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 1
    assert "pip install '.[cpu]'" in said.stderr


def test_the_lower_bound_of_the_gpu_s_runtime_can_be_installed() -> None:
    """With its libraries of CUDA: the wheels of some releases ask for packages that do not exist."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (bound,) = re.findall(r'"onnxruntime-gpu\[cuda,cudnn\]>=([\d.]+),', text)
    resolve = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--python-version", "3.11", "-"]
    found = _run(*resolve, input=f"onnxruntime-gpu[cuda,cudnn]=={bound}.0")
    assert f"onnxruntime-gpu=={bound}.0" in found
