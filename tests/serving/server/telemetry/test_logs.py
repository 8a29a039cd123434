"""What a server logs, and how a client finds its own request there."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import trustme

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

BIN = Path(sys.executable).parent
REQUEST = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=bytes(784), count=1))


def _trailer(call: grpc.Call) -> dict[str, str]:
    return dict(call.trailing_metadata() or ())


@pytest.mark.grpcio
def test_the_id_of_a_request_comes_back_and_is_logged(start_server: Callable) -> None:
    with start_server("--access-log-share", "1", "--log-format", "json") as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            _, call = stub.Classify.with_call(REQUEST, metadata=(("x-request-id", "mine-1"),), timeout=20)
            assert _trailer(call)["x-request-id"] == "mine-1"
            with pytest.raises(grpc.RpcError) as refused:
                stub.Classify(digits_pb2.ClassifyRequest(), metadata=(("x-request-id", "mine-2"),), timeout=20)
            assert _trailer(refused.value)["x-request-id"] == "mine-2"
            stream = stub.ClassifyStream(
                iter([digits_pb2.ClassifyStreamRequest(request=REQUEST)]),
                metadata=(("x-request-id", "mine-3"),),
                timeout=20,
            )
            assert len(list(stream)) == 1
            assert _trailer(stream)["x-request-id"] == "mine-3"
            _, call = stub.Classify.with_call(REQUEST, timeout=20)
            assert "x-request-id" not in _trailer(call)
        _, stderr = server.stop()
    access = [entry for entry in map(json.loads, stderr.splitlines()) if entry["logger"] == "serving.access"]
    assert [(entry["method"].split("/")[-1], entry["code"], entry.get("request_id")) for entry in access] == [
        ("Classify", "OK", "mine-1"),
        ("Classify", "INVALID_ARGUMENT", "mine-2"),
        ("ClassifyStream", "OK", "mine-3"),
        ("Classify", "OK", None),
    ]
    assert all(0 < entry["seconds"] < 20 for entry in access)
    assert [(entry.get("model"), entry.get("version"), entry.get("images")) for entry in access] == [
        ("mnist_convnet", 1, 1),
        ("mnist_convnet", 1, None),
        ("mnist_convnet", 1, 1),
        ("mnist_convnet", 1, 1),
    ]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", entry["peer"]) for entry in access)


def _use_a_tls_server(start_server: Callable, files: Path) -> str:
    """A client in plain text, one that sends rubbish, one that reads metrics and leaves; returns the log."""
    options = ["--tls-certificate", files / "server.crt", "--tls-key", files / "server.key", "--http-port", "0"]
    with start_server("--log-format", "json", "--metrics-port", "0", *map(str, options)) as server:
        metrics = re.search(r"metrics on http://([\d.]+):(\d+)", server.process.stderr.readline())
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", int(server.address.rpartition(":")[2])), 20) as rubbish:
                rubbish.sendall(b"GET / HTTP/1.1\r\n\r\n")
                rubbish.recv(1000)  # nothing, or an alert
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify(REQUEST, timeout=5)
        with socket.create_connection((metrics[1], int(metrics[2])), 20) as impatient:
            impatient.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            impatient.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return server.stop()[1]


def _start_on_a_port_in_use(start_server: Callable, files: Path) -> str:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = "--log-format", "json", "--port", str(taken.getsockname()[1])
        done = subprocess.run([BIN / "digits-serve", *options], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    return done.stderr


def _warn_and_fail(start_server: Callable, files: Path) -> str:
    """What Python itself would print."""
    program = """
import threading, warnings
from serving.server.telemetry.logs import LogConfig, start_logging
start_logging(LogConfig(format="json"))
warnings.warn("a warning")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
class Broken:
    def __del__(self):
        raise ValueError
Broken()
raise KeyError("the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert len(done.stderr.splitlines()) == 4
    return done.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files, issued = tmp_path_factory.mktemp("tls"), trustme.CA().issue_cert("localhost")
    issued.private_key_pem.write_to_path(files / "server.key")
    issued.cert_chain_pems[0].write_to_path(files / "server.crt")
    return files


@pytest.mark.grpcio
@pytest.mark.parametrize("use", [_use_a_tls_server, _start_on_a_port_in_use, _warn_and_fail])
def test_every_line_is_an_object_with_a_time_as_rfc_3339_has_it(
    start_server: Callable, certificate: Path, use: Callable
) -> None:
    entries = [json.loads(line) for line in use(start_server, certificate).splitlines()]
    assert entries
    for entry in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", entry["time"])
        assert {"level", "logger", "process", "message"} <= entry.keys()


def test_a_port_in_use_is_one_line(start_server: Callable) -> None:
    """gRPC would print one of its own first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = "--port", str(taken.getsockname()[1])
        done = subprocess.run([BIN / "digits-serve", *options], capture_output=True, text=True, check=False, timeout=60)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("Error: can't listen on")


@pytest.mark.parametrize("identity", ["two words", "x" * 129, ""])
def test_an_id_that_would_spoil_the_log_is_not_taken_over(server, identity: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        _, call = stub.Classify.with_call(REQUEST, metadata=(("x-request-id", identity),), timeout=20)
        assert "x-request-id" not in _trailer(call)


def test_nothing_is_logged_of_calls_unless_asked_for(start_server: Callable) -> None:
    with start_server() as server:
        with grpc.insecure_channel(server.address) as channel:
            digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify(REQUEST, timeout=20)
        _, stderr = server.stop()
    assert "Classify" not in stderr
