"""What several tests share: real servers, a network trained on drawn digits, MNIST where it is present."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from serving.config import FRONTS, PRETRAINED
from serving.repository.repository import Repository, StoredModel
from training.synthetic import draw_digits

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


# The front end of the servers in most tests; `make native` runs them with the other one.
FRONT = os.environ.get("TEST_FRONT", "grpcio")  # not DIGITS_FRONT, which servers read
# Tests that always run over both. Those elsewhere only pass through a server: `make native` runs them too.
OVER_BOTH_FRONTS = (
    *(ROOT / "tests" / "serving" / "server" / name for name in ("fronts", "process", "security", "services")),
    ROOT / "tests" / "serving" / "server" / "test_direct_calls.py",
    ROOT / "tests" / "test_existing_clients.py",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs some tests over both front ends."""
    path = metafunc.definition.path
    if "front" in metafunc.fixturenames and any(path.is_relative_to(tests) for tests in OVER_BOTH_FRONTS):
        metafunc.parametrize("front", FRONTS, indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Starts with the files that take longest, so that none of them runs alone at the end.

    Leaves out what only one front end can do where the other one would run.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    impossible = [
        item for item in items for front in FRONTS if item.get_closest_marker(front) and _front_of(item) != front
    ]
    config.hook.pytest_deselected(items=impossible)
    items[:] = [item for item in items if item not in impossible]


def _front_of(item: pytest.Item) -> str:
    called = getattr(item, "callspec", None)
    return called.params.get("front", FRONT) if called else FRONT


@dataclass(frozen=True)
class RunningServer:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    announcement: str

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signals it; returns its exit code and what it wrote to stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stderr


@contextlib.contextmanager
def run_server(
    *options: str, env: dict[str, str] | None = None, program: Path = BIN / "digits-serve"
) -> Iterator[RunningServer]:
    process = subprocess.Popen(
        [program, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )
    try:
        announcement = process.stdout.readline()
        found = re.search(r" on (\S+) with ", announcement)
        if not found:
            pytest.fail(f"the server did not start: {announcement}{process.communicate(timeout=30)[1]}")
        yield RunningServer(process, found[1], announcement)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def front(request: pytest.FixtureRequest) -> str:
    """What speaks gRPC in the servers of these fixtures."""
    return getattr(request, "param", FRONT)


@pytest.fixture(scope="session")
def start_server(front: str) -> Callable[..., contextlib.AbstractContextManager[RunningServer]]:
    return partial(run_server, "--front", front)


@pytest.fixture(scope="module")
def server(front: str) -> Iterator[RunningServer]:
    """The shipped model, served; shared by the tests of a module. Must stop cleanly whatever they did to it."""
    with run_server("--front", front) as running:
        yield running
        code, stderr = running.stop()
        assert code == 0, stderr


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs one of our console scripts as a user would."""

    def run(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        options.setdefault("timeout", 300)
        return subprocess.run(
            [BIN / name, *map(str, arguments)], capture_output=True, text=True, check=False, **options
        )

    return run


@pytest.fixture(scope="session")
def shipped() -> StoredModel:
    """The shipped model in float32 alone."""
    stored = Repository(PRETRAINED).load("mnist_convnet", 1)
    return replace(stored, manifest=replace(stored.manifest, precisions={}), precisions={})


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """500 drawn digits, uint8 [500, 28, 28, 1], and their labels; none occurs twice."""
    return draw_digits(500, seed=11)


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 240 small colour images in three classes: a shape of any colour and size, somewhere on noise."""
    root, generator = tmp_path_factory.mktemp("few") / "shapes", np.random.default_rng(0)
    for name in ("ellipse", "rectangle", "triangle"):
        (root / name).mkdir(parents=True)
        for number in range(80):
            picture = Image.fromarray(generator.integers(0, 60, (16, 16, 3), dtype=np.uint8))
            left, top, right, bottom = (int(generator.integers(*each)) for each in ((0, 4), (0, 4), (11, 16), (11, 16)))
            colour = tuple(generator.integers(120, 256, 3).tolist())
            pencil = ImageDraw.Draw(picture)
            if name == "triangle":
                pencil.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], colour)
            else:
                getattr(pencil, name)((left, top, right, bottom), colour)
            picture.save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    if not os.environ.get("MNIST_DIR"):
        pytest.skip("MNIST_DIR does not name a directory with MNIST's files")
    return Path(os.environ["MNIST_DIR"]).resolve()


@pytest.fixture(scope="session")
def digits_dir() -> Path:
    if not os.environ.get("REAL_DIGITS_DIR"):
        pytest.skip("REAL_DIGITS_DIR does not name a directory with images whose names begin with their label")
    return Path(os.environ["REAL_DIGITS_DIR"]).resolve()


@contextlib.contextmanager
def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A directory that all workers share: the first one makes what is in it, the others wait for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory: pytest.TempPathFactory, command: Callable) -> Path:
    """The directory of a short training run on drawn digits, made by the command; read-only."""
    with _made_once(tmp_path_factory, "synthetic") as out:
        if not (out / "report.html").exists():
            options = ("--data", "synthetic", "--recipe", "published", "--epochs", 2, "--seed", 3)
            done = command("digits-train", *options, "--out", out, "--overwrite")
            assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the example in Node.js needs, installed from the package index."""
    if not all(map(shutil.which, ("node", "npm"))):
        pytest.skip("needs Node.js and npm")
    with _made_once(tmp_path_factory, "node") as home:
        if not (home / "node_modules").exists():
            home.mkdir(exist_ok=True)
            shutil.copy(ROOT / "examples" / "node" / "package.json", home)
            install = ["npm", "install", "--prefix", home, "--no-audit", "--no-fund", "--silent"]
            done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=300)
            assert done.returncode == 0, done.stderr
    return home / "node_modules"
