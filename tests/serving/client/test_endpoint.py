"""Where clients connect to: addresses as users write them, proxies, sockets, and why there is no connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import AsyncClient, CallFailed, Client, Credentials
from serving.client.endpoint import dialled, is_this_machine
from serving.errors import InvalidConfig


@pytest.mark.parametrize(
    ("written", "address", "local"),
    [
        ("127.0.0.1:7", "127.0.0.1:7", True),
        ("127.0.0.1", "127.0.0.1:50051", True),
        ("127.9.9.9:7", "127.9.9.9:7", True),
        (" localhost ", "localhost:50051", True),
        ("localhost:7", "localhost:7", True),
        ("::1", "[::1]:50051", True),
        ("[::1]", "[::1]:50051", True),
        ("[::1]:7", "[::1]:7", True),
        ("0.0.0.0:7", "127.0.0.1:7", True),
        ("[::]:7", "localhost:7", True),
        ("digits.example", "digits.example:50051", False),
        ("digits.example:7", "digits.example:7", False),
        ("10.0.0.1:7", "10.0.0.1:7", False),
        ("[2001:db8::1]:7", "[2001:db8::1]:7", False),
        ("2001:db8::1", "[2001:db8::1]:50051", False),
        ("unix:/run/digits.sock", "unix:/run/digits.sock", True),
        ("unix:///run/digits.sock", "unix:///run/digits.sock", True),
        ("unix-abstract:digits", "unix-abstract:digits", True),
        ("dns:///localhost:7", "dns:///localhost:7", True),
        ("dns://10.0.0.2/digits.example:7", "dns://10.0.0.2/digits.example:7", False),
        ("ipv4:127.0.0.1:7", "ipv4:127.0.0.1:7", True),
        ("ipv6:[::1]:7", "ipv6:[::1]:7", True),
        ("ipv4:10.0.0.1:7,10.0.0.2:7", "ipv4:10.0.0.1:7,10.0.0.2:7", False),
    ],
)
def test_an_address_is_dialled_as_users_mean_it(written: str, address: str, local: bool) -> None:
    assert dialled(written) == address
    assert is_this_machine(address) == local


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("http://127.0.0.1:7", "is a URL"),
        ("", "is not an address like"),
        (":7", "is not an address like"),
        ("a b:7", "is not an address like"),
        ("/run/digits.sock", "is not an address like"),
        ("localhost:", "port must be a number"),
        ("localhost:http", "port must be a number"),
        ("localhost:0", "port must be a number"),
        ("localhost:65536", "port must be a number"),
        ("[::1]:http", "port must be a number"),
        ("::1:50051", r"with a port is like \[::1\]"),
    ],
)
def test_what_is_no_address_is_refused_before_it_is_dialled(written: str, said: str) -> None:
    with pytest.raises(InvalidConfig, match=said):
        Client(written)


class _Servicer(digits_pb2_grpc.DigitClassifierServiceServicer):
    """Describes a model."""

    def GetModel(self, request: Any, context: Any) -> digits_pb2.GetModelResponse:  # noqa: N802
        return digits_pb2.GetModelResponse(model_name="here")


def _report_not_serving(_: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    """Health that never changes."""
    ended = threading.Event()
    context.add_callback(ended.set)
    yield b"\x08\x02"
    ended.wait(20)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def listening(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server in plain text, one with TLS, one on a socket, and a port where nobody listens."""
    path = tmp_path_factory.mktemp("socket") / "digits.sock"
    leaf = authority.issue_cert("localhost")
    credentials = grpc.ssl_server_credentials([(leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes())])
    server = grpc.server(ThreadPoolExecutor(4))
    digits_pb2_grpc.add_DigitClassifierServiceServicer_to_server(_Servicer(), server)
    watch = {"Watch": grpc.unary_stream_rpc_method_handler(_report_not_serving)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", watch)])
    addresses = {
        "plain": f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}",
        "tls": f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}",
        "socket": f"unix:{path}",
    }
    server.add_insecure_port(addresses["socket"])
    server.start()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        addresses["closed"] = f"127.0.0.1:{closed.getsockname()[1]}"
    yield addresses
    server.stop(None).wait()


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables of proxies, whatever the machine's own are."""

    def use(url: str, *, no_proxy: str = "") -> None:
        for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("no_proxy", no_proxy)

    return use


async def test_a_socket_and_an_address_of_this_machine_need_no_proxy(
    listening: dict[str, str], proxies: Callable[..., None]
) -> None:
    proxies(f"http://{listening['closed']}")
    port = listening["plain"].rpartition(":")[2]
    for address in (listening["plain"], f"localhost:{port}", f"0.0.0.0:{port}", listening["socket"]):
        with Client(address, credentials=Credentials(token="one")) as client:
            assert client.get_model(5).model_name == "here"
        async with AsyncClient(address) as client:
            assert (await client.get_model(5)).model_name == "here"


def test_other_addresses_go_through_the_proxy_unless_it_is_told_otherwise(
    listening: dict[str, str], proxies: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(10)
        proxies(f"http://127.0.0.1:{proxy.getsockname()[1]}")
        asked: list[bytes] = []

        def refuse() -> None:
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(1000))

        thread = threading.Thread(target=refuse)
        thread.start()
        with Client("digits.invalid") as client, pytest.raises(CallFailed):
            client.get_model(0.5)
        thread.join(10)
        assert asked[0].startswith(b"CONNECT digits.invalid:50051 ")
        proxies(f"http://{listening['closed']}", no_proxy="digits.invalid")
        with Client("digits.invalid") as client, pytest.raises(CallFailed, match="is the host's name right"):
            client.get_model(5)


def _trusting(authority: trustme.CA, path: Path, **options: Any) -> Credentials:
    authority.cert_pem.write_to_path(str(path))
    return Credentials(root_certificates=path, **options)


@pytest.mark.parametrize(
    ("where", "credentials", "said"),
    [
        ("closed", lambda _, __: Credentials(), r"Connection refused\); is digits-serve running there\?"),
        ("tls", lambda _, __: Credentials(), r"if the server uses TLS, use it too: .*--tls-ca"),
        ("plain", _trusting, "that server does not use TLS"),
        ("tls", lambda _, path: _trusting(trustme.CA(), path), "trust the server's certificate or its authority"),
        ("tls", _trusting, r"its certificate is for another name: .*--tls-server-name"),
    ],
)
def test_without_a_connection_the_error_says_what_to_do(
    listening: dict[str, str],
    authority: trustme.CA,
    tmp_path: Path,
    where: str,
    credentials: Callable[[trustme.CA, Path], Credentials],
    said: str,
) -> None:
    with Client(listening[where], credentials=credentials(authority, tmp_path / "ca.pem")) as client:
        with pytest.raises(CallFailed, match=f"UNAVAILABLE: no connection .*{said}") as failed:
            client.wait_until_serving(0.3)
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_is_there_but_not_serving_is_told_apart(listening: dict[str, str]) -> None:
    said = "the server answers, but did not report SERVING within the time"
    with Client(listening["plain"]) as client, pytest.raises(CallFailed, match=said):
        client.wait_until_serving(0.3)
    async with AsyncClient(listening["plain"]) as client:
        with pytest.raises(CallFailed, match=said):
            await client.wait_until_serving(0.3)
    async with AsyncClient(listening["closed"]) as client:
        with pytest.raises(CallFailed, match="is digits-serve running there"):
            await client.wait_until_serving(0.3)
