"""The process starts or gives the reason, stops without losing an answer, and writes only what it was told to."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from ports import free_port

from serving.client import Client
from serving.config import PRETRAINED

Start = Callable[..., object]


def test_one_line_tells_what_is_served_where(start_server: Start, digits: tuple) -> None:
    with start_server("--provider", "cpu") as server:
        assert server.announcement == f"serving mnist_convnet version 1 on {server.address} with CPUExecutionProvider\n"
        assert server.address.startswith("127.0.0.1:")
        with Client(server.address) as client:
            assert len(client.classify(digits[0]).labels) == 500
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout.read() == ""
        assert server.stop()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_loses_no_answer(start_server: Start, digits: tuple, number: int) -> None:
    """Every accepted call is answered; later calls find no server. No call fails in any other way."""
    images, _ = digits
    with start_server() as server:
        with Client(server.address) as client:
            expected = client.classify(images).labels
        wrong: list[object] = []
        answered = threading.Semaphore(0)

        def caller() -> None:
            from serving.client import CallFailed

            with Client(server.address) as client:
                while True:
                    try:
                        if not np.array_equal(client.classify(images[:50], timeout_s=5).labels, expected[:50]):
                            wrong.append("another answer")
                    except CallFailed as error:
                        if error.code.name != "UNAVAILABLE":
                            wrong.append(error)
                        return
                    answered.release()

        threads = [threading.Thread(target=caller) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(100):
            assert answered.acquire(timeout=20)
        code, stderr = server.stop(number)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert wrong == []
    assert code == 0, stderr
    assert "Traceback" not in stderr


def test_no_grace_still_stops_cleanly_where_nothing_is_in_flight(start_server: Start) -> None:
    with start_server("--grace-s", "0") as server:
        code, stderr = server.stop()
    assert code == 0, stderr


def test_a_signal_that_comes_twice_at_once_is_one(start_server: Start) -> None:
    with start_server() as server:
        server.process.send_signal(signal.SIGTERM)
        code, stderr = server.stop()
    assert code == 0, stderr
    assert "second signal" not in stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_connection_without_a_call_does_not_use_the_grace_period_up(start_server: Start, workers: str) -> None:
    """Such as a load balancer's that only connects, on each port. gRPC alone would wait for it for 20 s."""
    options = "--grace-s", "600", "--http-port", "0", "--metrics-port", "0", "--workers", workers
    with start_server(*options) as server, contextlib.ExitStack() as connections:
        addresses = server.address, server.process.stdout.readline(), server.process.stderr.readline()
        for address in addresses:
            where = "127.0.0.1", int(re.search(r"127\.0\.0\.1:(\d+)", address)[1])
            connections.enter_context(socket.create_connection(where, 20))
        with Client(server.address) as client:
            client.get_model()
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(12) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_closed_standard_streams_keep_nobody_from_serving(workers: str) -> None:
    """Some launchers start a service with none of the three."""
    port = free_port()
    serve = Path(sys.executable).parent / "digits-serve"
    options = f"--port {port} --workers {workers}"
    server = subprocess.Popen(["/bin/sh", "-c", f"exec {shlex.quote(str(serve))} {options} <&- >&- 2>&-"])
    try:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_serving(20)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0


def test_all_addresses_are_those_of_ipv4_and_ipv6_on_each_port(start_server: Start) -> None:
    with start_server("--host", "::", "--http-port", "0", "--metrics-port", "0") as server:
        port = server.address.rpartition(":")[2]
        http_port = server.process.stdout.readline().strip().rpartition(":")[2]
        metrics_port = re.search(r"metrics on \S+:(\d+)/", server.process.stderr.readline())[1]
        for host in ("127.0.0.1", "[::1]"):
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == 1
            for url in (f"http://{host}:{http_port}/readyz", f"http://{host}:{metrics_port}/metrics"):
                assert urllib.request.urlopen(url, timeout=20).status == 200


def test_a_full_stdout_keeps_nobody_from_serving() -> None:
    port = free_port()
    with Path("/dev/full").open("w") as full:
        server = subprocess.Popen(
            [Path(sys.executable).parent / "digits-serve", "--port", str(port)], stdout=full, stderr=subprocess.PIPE
        )
    try:
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_serving(20)
    finally:
        server.send_signal(signal.SIGTERM)
        _, stderr = server.communicate(timeout=20)
    assert server.returncode == 0
    assert b"could not announce" in stderr


def test_a_port_in_use_is_a_clear_error(start_server: Start, command: Callable) -> None:
    with start_server() as server:
        port = server.address.rsplit(":", 1)[1]
        done = command("digits-serve", "--port", port, timeout=20)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}: the port is in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_port_that_another_program_listens_on_is_a_clear_error(command: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = command("digits-serve", "--port", listener.getsockname()[1], timeout=20)
    assert done.returncode == 1
    assert "the port is in use" in done.stderr


def _copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PRETRAINED, tmp_path / "models"))


def _changed_model(root: Path) -> str:
    with (root / "mnist_convnet" / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    return "sha256"


def _no_versions(root: Path) -> str:
    shutil.rmtree(root / "mnist_convnet" / "1")
    return "no models here"


def _no_models(root: Path) -> str:
    shutil.rmtree(root / "mnist_convnet")
    return "no models here"


def _unproven(root: Path) -> str:
    manifest = root / "mnist_convnet" / "1" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["parity"] = {}
    manifest.write_text(json.dumps(document))
    return "no passed parity check"


def _absent(root: Path) -> str:
    shutil.rmtree(root)
    return "not a model repository"


@pytest.mark.parametrize("damage", [_changed_model, _no_versions, _no_models, _unproven, _absent])
def test_a_repository_that_can_not_be_served_stops_the_start(command: Callable, tmp_path: Path, damage) -> None:
    root = _copied(tmp_path)
    said = damage(root)
    done = command("digits-serve", "--port", 0, "--repository", root, timeout=20)
    assert done.returncode == 1
    assert said in done.stderr
    assert str(root) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--port", "70000"], 2, "--port"),
        (["--provider", "tpu"], 2, "'auto', 'cuda', 'cpu'"),
        (["--max-queue-rows", "10"], 2, "--max-queue-rows must be at least --max-batch-rows"),
        (["--model", "resnet"], 1, "no model 'resnet'; available: mnist_convnet"),
        (["--model-version", "9"], 1, "no version 9; available: 1"),
        (["--host", "203.0.113.1"], 1, "can't listen on 203.0.113.1"),
        (["--host", "no such host"], 1, "no address is known for 'no such host'"),
        (["--host", ""], 2, "host must not be empty"),
        (["--max-wait-ms", "inf"], 2, "--max-wait-ms"),
        (["--max-batch-rows", "3000000", "--max-queue-rows", "3000000"], 1, "more than gRPC's largest message"),
    ],
)
def test_wrong_options_are_told_in_a_line(command: Callable, options: list[str], code: int, said: str) -> None:
    done = command("digits-serve", "--port", "0", *options, timeout=20)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_every_option_is_an_environment_variable(start_server: Start) -> None:
    environment = {**os.environ, "DIGITS_MAX_BATCH_ROWS": "7", "DIGITS_PROVIDER": "cpu"}
    with start_server(env=environment) as server, Client(server.address) as client:
        assert client.get_model().max_images_per_request == 7


def test_serving_writes_nothing_at_home_and_loads_no_training_code(tmp_path: Path) -> None:
    """Telemetry, caches and byte code would all show in an empty home. TensorFlow is installed here but not loaded."""
    home = tmp_path / "home"
    home.mkdir()
    program = """
import asyncio, sys
from serving.config import EngineConfig, ServerConfig
from serving.server.process.server import Server

async def main():
    server = Server(ServerConfig(port=0, engine=EngineConfig(provider="cpu")))
    await server.start()
    await server.aclose()

asyncio.run(main())
print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "keras", "training", "export", "onnx"}))
"""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
    assert list(home.rglob("*")) == []


def test_the_demo_shows_the_shipped_digits_over_grpc_and_where_to_draw_one(start_server: Start) -> None:
    with start_server("--demo", "--http-port", "0") as server:
        shown = []
        for line in server.process.stdout:
            shown.append(line)
            if "still serving" in line:
                break
        text = "".join(shown)
        (page,) = re.findall(r"^draw a digit on (http://\S+)$", text, re.MULTILINE)
        with urllib.request.urlopen(page, timeout=20) as answer:
            assert b"<title>Draw a digit</title>" in answer.read()
        code, stderr = server.stop(signal.SIGINT)
    assert code == 0, stderr
    assert "█" in text
    captions = [word for line in shown if "%" in line for word in line.split()]
    assert [word for word in captions if len(word) == 1] == [*"0123456789"]
    assert all(float(word.rstrip("%")) > 90 for word in captions if word.endswith("%"))
