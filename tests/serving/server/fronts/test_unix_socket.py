"""A server on a Unix socket: it takes what a killed one has left, and nothing from one that runs."""

from __future__ import annotations

import os
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.config import ServerConfig
from serving.errors import InvalidConfig, StartFailed
from serving.server.fronts.unix_socket import check_socket_file, free_socket_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digits.sock"


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener


def _model(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        return stub.GetModel(digits_pb2.GetModelRequest(), timeout=20).model_name


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
def test_a_server_listens_on_a_socket_and_takes_over_what_a_killed_one_left(
    start_server: Callable, path: Path, form: str
) -> None:
    host, address = form.format(path), f"unix:{path}"
    with start_server("--host", host) as server:
        assert server.address == address
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
    assert path.is_socket()
    with start_server("--host", host, "--http-port", "0", "--access-log-share", "1") as server:
        assert _model(server.address) == "mnist_convnet"
        http = server.process.stdout.readline().removeprefix("http on ").strip()
        assert http.startswith("http://127.0.0.1:")
        assert urllib.request.urlopen(f"{http}/readyz", timeout=20).status == 200
        code, stderr = server.stop()
    assert code == 0, stderr
    assert "GetModel OK" in stderr
    assert "from unix:" in stderr
    assert not path.exists()


def test_the_socket_of_a_server_that_runs_is_in_use(start_server: Callable, command: Callable, path: Path) -> None:
    with start_server("--host", f"unix:{path}") as server:
        done = command("digits-serve", "--host", server.address, timeout=20)
        assert done.returncode == 1
        assert done.stderr == f"Error: can't listen on unix:{path}: another server listens there\n"
        looked = command("digits-doctor", "--host", server.address, "--provider", "cpu", timeout=60)
        assert looked.returncode == 1
        assert "another server listens there" in looked.stdout
        assert _model(server.address) == "mnist_convnet"


def _file(path: Path) -> Iterator[str]:
    path.write_text("important")
    yield "there is a file that is no socket"
    assert path.read_text() == "important"


def _directory(path: Path) -> Iterator[str]:
    path.mkdir()
    yield "there is a file that is no socket"


def _link_to_socket(path: Path) -> Iterator[str]:
    with _listen(path.with_name("other")):
        path.symlink_to("other")
        yield "there is a file that is no socket"


def _listener(path: Path) -> Iterator[str]:
    with _listen(path):
        yield "another server listens there"
    assert path.exists()


def _full_backlog(path: Path) -> Iterator[str]:
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    with _listen(path):
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(str(path))
        yield "another server listens there"
        for each in waiting:
            each.close()


@pytest.mark.parametrize("occupy", [_file, _directory, _link_to_socket, _listener, _full_backlog])
def test_what_is_in_use_stays(path: Path, occupy: Callable[[Path], Iterator[str]]) -> None:
    for said in (occupied := occupy(path)):
        with pytest.raises(StartFailed, match=said):
            free_socket_file(path)
        assert os.path.lexists(path)
    occupied.close()


def test_checking_removes_nothing(path: Path) -> None:
    _listen(path).close()
    check_socket_file(path)
    assert path.is_socket()
    free_socket_file(path)
    assert not path.exists()


def test_a_directory_that_is_not_there_is_told(path: Path) -> None:
    with pytest.raises(StartFailed, match="there is no directory"):
        free_socket_file(path / "inner" / "digits.sock")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"host": "unix:"}, "needs a path of 1 to 107 bytes"),
        ({"host": "unix:/" + "x" * 107}, "needs a path of 1 to 107 bytes, not 108"),
        ({"host": "unix:/run/digits.sock", "workers": 2}, "workers can't share a Unix socket"),
    ],
)
def test_what_no_socket_can_do_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        ServerConfig(**options)
