"""Clients that nobody here wrote, unchanged, each in an environment and a process of its own, with both front ends.

Their stubs and ours have the same symbols, of which a process can hold only one copy. tritonclient needs a lower bound:
left to itself a resolution may choose one of years ago.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from protos.inference import inference_pb2, model_config_pb2
from serving.client import Client

CLIENTS = Path(__file__).parent / "clients"

pytestmark = pytest.mark.packages


@pytest.fixture(scope="module")
def python_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes an environment with one requirement, once; returns its Python."""
    made: dict[str, Path] = {}

    def make(requirement: str) -> Path:
        if requirement not in made:
            home = tmp_path_factory.mktemp("environment")
            _run(sys.executable, "-m", "venv", "--without-pip", home)
            # uv, since pip takes half a minute for KServe's client
            _run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", home / "bin" / "python", requirement)
            made[requirement] = home / "bin" / "python"
        return made[requirement]

    return make


@pytest.fixture(scope="module")
def server(start_server: Callable) -> Iterator[object]:
    """With a port for HTTP as well; must stop cleanly whatever clients did to it."""
    with start_server("--http-port", "0") as running:
        yield running
        code, stderr = running.stop()
        assert code == 0, stderr


@pytest.fixture(scope="module")
def http_address(server) -> str:
    return server.process.stdout.readline().removeprefix("http on http://").strip()


@pytest.fixture
def data(server, digits: tuple, tmp_path: Path) -> Path:
    """Images, and the labels that `digits.v1` gives them: the other protocol must agree."""
    with Client(server.address) as client:
        labels = client.classify(digits[0]).labels
    np.savez(tmp_path / "digits.npz", images=digits[0], labels=labels)
    return tmp_path / "digits.npz"


def _run(*command: object, **options: object) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=600, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def triton(python_with: Callable[[str], Path]) -> Path:
    return python_with("tritonclient[grpc,http]>=2.73,<3")


def test_tritonclient_can_do_all_that_applies(triton: Path, server, data: Path, tmp_path: Path) -> None:
    printed = _run(triton, CLIENTS / "triton_client.py", server.address, data, cwd=tmp_path)
    assert printed == "tritonclient is content\n"


def test_tritonclient_can_do_the_same_over_http(triton: Path, http_address: str, data: Path, tmp_path: Path) -> None:
    printed = _run(triton, CLIENTS / "triton_http_client.py", http_address, data, cwd=tmp_path)
    assert printed == "tritonclient is content\n"


def test_the_snippet_in_the_docs_works(triton: Path, server, tmp_path: Path) -> None:
    text = (CLIENTS.parent.parent / "docs" / "oip.md").read_text(encoding="utf-8")
    (snippet,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert snippet.count("127.0.0.1:50051") == 1
    program = snippet.replace("127.0.0.1:50051", server.address)
    assert _run(triton, "-c", program, cwd=tmp_path) == "(3, 10)\n"


def test_our_interface_is_triton_s_field_by_field(triton: Path, tmp_path: Path) -> None:
    ours = descriptor_pb2.FileDescriptorSet()
    for module in (model_config_pb2, inference_pb2):
        module.DESCRIPTOR.CopyToProto(ours.file.add())
    (tmp_path / "descriptors").write_bytes(ours.SerializeToString())
    theirs = ("tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2")
    printed = _run(triton, CLIENTS / "stubs.py", tmp_path / "descriptors", *theirs, cwd=tmp_path)
    assert int(printed.split()[0]) > 100


def test_kserve_s_client_works(python_with: Callable[[str], Path], server, data: Path, tmp_path: Path) -> None:
    """Some 430 MB come with it, of which the client needs little."""
    printed = _run(python_with("kserve>=0.21,<1"), CLIENTS / "kserve_client.py", server.address, data, cwd=tmp_path)
    assert printed == "KServe is content\n"


def test_node_s_client_works(server, data: Path, tmp_path: Path, node_modules: Path) -> None:
    """From the .proto files of a checkout, as its users do: it has no stubs."""
    digits = np.load(data)
    images = [base64.b64encode(image.tobytes()).decode() for image in digits["images"]]
    (tmp_path / "digits.json").write_text(json.dumps({"images": images, "labels": digits["labels"].tolist()}))
    arguments = (server.address, CLIENTS.parent.parent, tmp_path / "digits.json")
    environment = {**os.environ, "NODE_PATH": str(node_modules)}
    assert _run("node", CLIENTS / "node_client.js", *arguments, env=environment) == "Node is content\n"
