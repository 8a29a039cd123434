"""The port for HTTP as part of a process: announced, guarded, counted, shared, drained; what ends slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import pytest_asyncio
import trustme
from prometheus_client import CollectorRegistry

from protos.inference import inference_pb2 as pb
from protos.inference import inference_pb2_grpc
from serving.config import BatcherConfig, EngineConfig, ServerConfig
from serving.inference.engine import Engine
from serving.server.process.server import Server
from serving.server.telemetry.metrics import Metrics

INFER = "/v2/models/mnist_convnet/infer"
IMAGE = {"name": "images", "shape": [1, 28, 28, 1], "datatype": "UINT8", "data": [0] * 784}
GOOD = json.dumps({"inputs": [IMAGE]}).encode()
TOKEN = "first-token-4711"
Start = Callable[..., contextlib.AbstractContextManager]


def _http(server) -> str:
    """Host and port, from the second line of the announcement."""
    return re.fullmatch(r"http on https?://(\S+)\n", server.process.stdout.readline())[1]


def _socket(address: str) -> socket.socket:
    host, port = address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _ask(
    address: str, path: str, body: bytes | None = None, tls: ssl.SSLContext | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """One request on a connection of its own."""
    kind = http.client.HTTPConnection if tls is None else http.client.HTTPSConnection
    connection = kind(address, timeout=20, **({} if tls is None else {"context": tls}))
    try:
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def _status(*arguments: object, **more: object) -> int:
    return _ask(*arguments, **more)[0]


def _metrics(address: str) -> dict[str, str]:
    return dict(re.findall(r"^(digits_\S+{.*}|digits_\S+) (\S+)$", _ask(address, "/metrics")[2].decode(), re.MULTILINE))


def _ends(connection: socket.socket) -> bytes:
    """What comes until the other side ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    return received


# --- the port


def test_nothing_listens_unless_asked(start_server: Start) -> None:
    with start_server() as server:
        ports = {port.laddr.port for port in psutil.Process(server.process.pid).net_connections() if not port.raddr}
        assert ports == {int(server.address.split(":")[1])}
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stdout.read() == ""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_an_error(command: Callable, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = command("digits-serve", "--port", 0, "--http-port", port, "--workers", workers, timeout=60)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}: the port is in use" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_one_port_for_both_is_wrong_usage(command: Callable) -> None:
    done = command("digits-serve", "--port", 50070, "--http-port", 50070, timeout=60)
    assert done.returncode == 2
    assert "--http-port and --port must differ" in done.stderr


def test_workers_share_the_port_and_show_one_sum(start_server: Start) -> None:
    with start_server("--workers", "2", "--http-port", "0", "--provider", "cpu") as server:
        address = _http(server)
        workers = psutil.Process(server.process.pid).children()
        directory = Path(workers[0].environ()["PROMETHEUS_MULTIPROC_DIR"])
        before = {each.pid: each.cpu_times().user for each in workers}
        calls, busy = 0, set()
        while len(busy) < 2:  # the kernel chooses a worker at random for each connection, and each call has its own
            assert calls < 400
            calls += 1
            assert _status(address, INFER, GOOD) == 200
            busy = {each.pid for each in workers if each.cpu_times().user > before[each.pid]}
        stats = [json.loads(_ask(address, "/v2/models/stats")[2])["model_stats"][0] for _ in range(5)]
        assert {found["inference_count"] for found in stats} == {calls}
        for _ in range(5):  # whichever worker answers
            shown = _metrics(address)
            assert shown['digits_images_total{model="mnist_convnet",version="1"}'] == f"{calls:.1f}"
            labels = '{code="OK",method="POST /v2/models/{name}/infer",model="mnist_convnet",version="1"}'
            assert shown[f"digits_requests_total{labels}"] == f"{calls:.1f}"
        code, stderr = server.stop()
    assert code == 0
    assert "Traceback" not in stderr
    assert not directory.exists()


# --- who may


@pytest.mark.parametrize("open_health", [True, False])
def test_a_token_is_needed_but_for_health(start_server: Start, tmp_path: Path, open_health: bool) -> None:
    (tmp_path / "tokens").write_text(f"{TOKEN}\n")
    options = ["--token-file", str(tmp_path / "tokens"), *([] if open_health else ["--no-open-health"])]
    health = ["/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"]
    guarded = ["/v2", "/v2/models/mnist_convnet", "/v2/models/mnist_convnet/ready", "/v2/models/stats", "/metrics"]
    with start_server("--http-port", "0", *options) as server:
        address = _http(server)
        for path in [*health, *guarded]:
            assert _status(address, path) == (200 if open_health and path in health else 401), path
            assert _status(address, path, authorization=f"Bearer {TOKEN}") == 200, path
        for wrong in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN, "Bearer tök"):
            status, headers, body = _ask(address, INFER, GOOD, authorization=wrong)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(body) == {"error": "the call carries no valid credentials"}
        twice = f"POST {INFER} HTTP/1.1\r\nhost: x\r\n{f'authorization: Bearer {TOKEN}' * 2}\r\n\r\n"
        twice = twice.replace(f"{TOKEN}authorization", f"{TOKEN}\r\nauthorization")
        with _socket(address) as connection:  # and before anything of the body has come
            connection.sendall(twice.replace("\r\n\r\n", "\r\ncontent-length: 9999\r\n\r\n").encode())
            assert connection.recv(12) == b"HTTP/1.1 401"
        assert _status(address, INFER, GOOD, authorization=f"Bearer {TOKEN}") == 200
        code, stderr = server.stop()
    assert code == 0
    assert "4711" not in stderr


def test_calls_beyond_the_limit_are_refused_whichever_way_they_come(start_server: Start) -> None:
    with start_server("--max-concurrent-calls", "1", "--http-port", "0") as server:
        address = _http(server)
        with grpc.insecure_channel(server.address) as channel:
            ended = threading.Event()
            request = pb.ModelInferRequest(model_name="resnet")
            stream = inference_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(
                request if number == 0 else ended.wait(20) and request for number in range(2)
            )
            next(stream)  # holds the only place
            status, headers, body = _ask(address, INFER, GOOD)
            assert (status, headers["retry-after"]) == (429, "1")
            assert "1 calls are running already" in json.loads(body)["error"]
            for path in ("/healthz", "/readyz", "/v2/health/ready", "/metrics"):
                assert _status(address, path) == 200, path
            ended.set()
            next(stream)
            stream.cancel()


class _Files:
    """A server's certificate and key on disk, and the authority that a client must trust."""

    def __init__(self, folder: Path) -> None:
        self.certificate, self.key = folder / "tls.crt", folder / "tls.key"
        self.rotate()

    def rotate(self) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        for path, content in (
            (self.key, issued.private_key_pem.bytes()),
            (self.certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems)),
        ):
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").replace(path)

    @property
    def options(self) -> tuple[str, ...]:
        return ("--http-port", "0", "--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    def trusting(self, identity: trustme.LeafCert | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if identity is not None:
            identity.configure_cert(context)
        return context


@pytest.mark.grpcio
def test_tls_takes_new_connections_with_the_current_certificate(start_server: Start, tmp_path: Path) -> None:
    files = _Files(tmp_path)
    with start_server(*files.options) as server:
        address = _http(server)
        old = files.trusting()
        held = http.client.HTTPSConnection(address, timeout=20, context=old)
        held.request("GET", "/v2")
        assert held.getresponse().read()
        assert _status(f"localhost:{address.split(':')[1]}", INFER, GOOD, tls=old) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            _ask(address, "/v2", tls=ssl.create_default_context())
        with pytest.raises((http.client.HTTPException, OSError)):  # plain text
            _ask(address, "/v2")
        files.rotate()
        with pytest.raises(ssl.SSLCertVerificationError):
            _ask(address, "/v2", tls=old)
        assert _status(address, INFER, GOOD, tls=files.trusting()) == 200
        held.request("GET", "/v2")
        assert held.getresponse().read()
        files.key.write_bytes(b"half of one")
        assert _status(address, INFER, GOOD, tls=files.trusting()) == 200
        code, stderr = server.stop()
    assert code == 0
    assert "stays in use" in stderr
    assert "Traceback" not in stderr


@pytest.mark.grpcio
def test_mutual_tls_accepts_only_clients_of_its_current_authority(start_server: Start, tmp_path: Path) -> None:
    files, ours, other = _Files(tmp_path), trustme.CA(), trustme.CA()
    ca = tmp_path / "client-ca.crt"
    ours.cert_pem.write_to_path(ca)
    good = files.trusting(ours.issue_cert("client@example.org"))
    foreign = files.trusting(other.issue_cert("client@example.org"))
    with start_server(*files.options, "--tls-client-ca", str(ca)) as server:
        address = _http(server)
        assert _status(address, INFER, GOOD, tls=good) == 200
        for context in (foreign, files.trusting()):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                _ask(address, INFER, GOOD, tls=context)
        other.cert_pem.write_to_path(ca)
        assert _status(address, INFER, GOOD, tls=foreign) == 200
        for context in (good, files.trusting()):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                _ask(address, INFER, GOOD, tls=context)
        assert server.stop()[0] == 0


# --- what is seen of it


def test_metrics_and_logs_name_routes_and_never_paths(start_server: Start) -> None:
    with start_server("--http-port", "0", "--access-log-share", "1") as server:
        address = _http(server)
        for _ in range(3):
            assert _status(address, INFER, GOOD, **{"x-request-id": "my-id"}) == 200
        assert _status(address, "/v2/models/mnist_convnet/versions/1/infer", GOOD) == 200
        assert _status(address, INFER, b"{}") == 400
        assert _status(address, "/v2/models/secret-name/infer", GOOD) == 404
        assert _status(address, "/secret-path") == 404
        assert _status(address, "/healthz", GOOD) == 405
        _, headers, body = _ask(address, "/metrics")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert _ask(address, "/metrics", accept="application/openmetrics-text; version=1.0.0")[2].endswith(b"# EOF\n")
        code, stderr = server.stop()
    assert code == 0
    infer = r'^digits_requests_total{code="(\w+)",method="POST \S+infer",model="(\w*)",version="(\w*)"} (\S+)$'
    assert sorted(re.findall(infer, body.decode(), re.M)) == [
        ("INVALID_ARGUMENT", "mnist_convnet", "1", "1.0"),
        ("NOT_FOUND", "", "", "1.0"),
        ("OK", "mnist_convnet", "1", "4.0"),
    ]
    for code in ("NOT_FOUND", "UNIMPLEMENTED"):
        assert f'digits_requests_total{{code="{code}",method="no route",model="",version=""}} 1.0' in body.decode()
    assert stderr.count("request my-id: POST /v2/models/{name}/infer OK") == 3
    assert "secret" not in body.decode() + stderr


# --- clients that are slow


@pytest.fixture(scope="module")
def impatient(start_server: Start) -> Iterator[str]:
    """The address of a server that gives clients half a second."""
    with start_server("--http-port", "0", "--http-timeout-s", "0.5", "--provider", "cpu") as server:
        address = _http(server)
        yield address
        assert _status(address, INFER, GOOD) == 200
        code, stderr = server.stop()
    assert code == 0
    assert "Traceback" not in stderr


def _trickles(connection: socket.socket, content: bytes) -> bytes:
    """Sends a byte at a time, each well within the limit; returns what came by the time the server had enough."""
    connection.settimeout(0.05)
    for byte in content:
        with contextlib.suppress(ConnectionError):
            connection.sendall(bytes([byte]))
        with contextlib.suppress(TimeoutError):
            answer = connection.recv(65536)
            connection.settimeout(20)
            while b"}" not in answer and (more := connection.recv(65536)):  # its end may come in a later segment
                answer += more
            return answer
    raise AssertionError("the server took all of it")


@pytest.mark.parametrize(
    "begun", [b"", f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(GOOD)}\r\n\r\n".encode()]
)
def test_a_request_that_trickles_is_ended(impatient: str, begun: bytes) -> None:
    with _socket(impatient) as connection:
        connection.sendall(begun)
        started = time.monotonic()
        told = _trickles(connection, GOOD if begun else b"GET /v2 HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 1000)
        assert told.startswith(b"HTTP/1.1 408")
        assert b'{"error": "the request did not arrive in time"}' in told
        connection.settimeout(20)
        _ends(connection)
        assert 0.4 < time.monotonic() - started < 10


@pytest.mark.parametrize("first", [b"", b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_connection_on_which_nothing_comes_is_closed(impatient: str, first: bytes) -> None:
    with _socket(impatient) as connection:
        connection.sendall(first)
        received = _ends(connection)
    assert received.count(b"HTTP/1.1") == bool(first)


def test_a_client_that_does_not_take_its_answers_is_closed(start_server: Start) -> None:
    """Ten megabytes of them, of which the system keeps a part."""
    with start_server("--http-port", "0", "--http-timeout-s", "0.5") as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        host, port = _http(server).split(":")
        connection.connect((host, int(port)))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n" * 2000)
        assert connection.recv(12) == b"HTTP/1.1 200"
        ends, process = time.monotonic() + 20, psutil.Process(server.process.pid)
        while any(found.raddr for found in process.net_connections()):
            assert time.monotonic() < ends, "never closed"
            time.sleep(0.02)
        assert _ends(connection).count(b"HTTP/1.1 200") < 1999
        assert server.stop()[0] == 0


@pytest.mark.grpcio
def test_connections_beyond_the_limit_are_closed_at_once(start_server: Start) -> None:
    with (
        start_server("--http-port", "0", "--max-connections", "2") as server,
        contextlib.ExitStack() as stack,
    ):
        address = _http(server)
        held = [stack.enter_context(_socket(address)) for _ in range(3)]
        for connection in held[:2]:
            connection.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert _ends(held[2]) == b""


# --- in flight


class _HeldServer:
    """A real server in this process, whose engine can be held."""

    def __init__(self) -> None:
        self.server = Server(
            ServerConfig(
                port=0,
                http_port=0,
                grace_s=10,
                engine=EngineConfig(provider="cpu"),
                batcher=BatcherConfig(inline_s=0),  # what is held is the engine's thread, not the event loop
            ),
            metrics=Metrics(CollectorRegistry()),
        )
        self.began, self.released = threading.Event(), threading.Event()
        self.error: Exception | None = None

    async def start(self) -> str:
        await self.server.start()
        infer = self.server.deployments.find()._engine.infer

        def held(images: np.ndarray):
            self.began.set()
            assert self.released.wait(20)
            if self.error:
                raise self.error
            return infer(images)

        self.server.deployments.find()._engine.infer = held
        return self.address

    @property
    def address(self) -> str:
        return self.server.http_url.removeprefix("http://")

    async def queued(self, rows: int) -> None:
        """Waits until this many rows are queued; each turn lets the server run, which shares this event loop."""
        async with asyncio.timeout(20):
            while self.server.deployments.find().queued_rows != rows:  # noqa: ASYNC110 - the batcher has no event for it
                await asyncio.sleep(0)


@pytest_asyncio.fixture
async def held() -> AsyncIterator[_HeldServer]:
    made = _HeldServer()
    yield made
    made.released.set()
    await asyncio.wait_for(made.server.aclose(), 20)


def _asking(*arguments: object, **more: object) -> asyncio.Future:
    return asyncio.ensure_future(asyncio.to_thread(_ask, *arguments, **more))


async def test_a_client_that_goes_away_takes_its_request_along(held: _HeldServer) -> None:
    address = await held.start()
    first = _asking(address, INFER, GOOD)
    assert await asyncio.to_thread(held.began.wait, 20)
    connection = _socket(address)
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(GOOD)}\r\n\r\n".encode()
    connection.sendall(head + GOOD)
    await held.queued(1)
    connection.close()
    await held.queued(0)  # its place in the queue is free again
    held.released.set()
    assert (await first)[0] == 200
    body = (await _asking(address, "/metrics"))[2].decode()
    labels = '{code="CANCELLED",method="POST /v2/models/{name}/infer",model="mnist_convnet",version="1"}'
    assert f"digits_requests_total{labels} 1.0" in body
    assert 'digits_images_total{model="mnist_convnet",version="1"} 1.0' in body


async def test_a_request_s_timeout_ends_it(held: _HeldServer) -> None:
    address = await held.start()
    first = _asking(address, INFER, GOOD)
    assert await asyncio.to_thread(held.began.wait, 20)
    late = json.dumps({"inputs": [IMAGE], "parameters": {"timeout": 100_000}}).encode()
    status, _, body = await _asking(address, INFER, late)
    assert status == 504
    assert "timeout passed" in json.loads(body)["error"]
    held.released.set()
    assert (await first)[0] == 200


async def test_an_internal_error_tells_the_client_only_an_id(held: _HeldServer) -> None:
    address = await held.start()
    held.error = RuntimeError("secret path /etc/model")
    held.released.set()
    status, _, body = await _asking(address, INFER, GOOD)
    assert status == 500
    assert re.fullmatch(r"internal error; the server's log has details under \w{8}", json.loads(body)["error"])


async def test_a_starting_server_lives_and_is_not_ready(held: _HeldServer) -> None:
    warm, answers, asking = threading.Event(), {}, []
    asked = "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2/models/mnist_convnet/ready"
    start, loop = Engine.start, asyncio.get_running_loop()

    async def ask() -> None:
        try:
            for path in asked:
                answers[path] = (await _asking(held.address, path))[0]
            answers[INFER] = (await _asking(held.address, INFER, GOOD))[0]
        finally:
            warm.set()

    def slow_start(engine: Engine) -> None:
        loop.call_soon_threadsafe(lambda: asking.append(loop.create_task(ask())))
        assert warm.wait(20)
        start(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "start", slow_start)
        await held.start()
    await asking[0]
    assert answers == {
        "/healthz": 200,
        "/readyz": 503,
        "/v2/health/live": 200,
        "/v2/health/ready": 400,
        "/v2/models/mnist_convnet/ready": 400,
        INFER: 503,
    }
    assert (await _asking(held.address, "/readyz"))[0] == 200


async def test_a_stopping_server_says_so_answers_what_it_has_and_ends_idle_connections(held: _HeldServer) -> None:
    address = await held.start()
    idle = _socket(address)
    idle.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
    assert await asyncio.to_thread(idle.recv, 12) == b"HTTP/1.1 200"
    first = _asking(address, INFER, GOOD)
    assert await asyncio.to_thread(held.began.wait, 20)
    await held.server.report_not_serving()
    assert (await _asking(address, "/readyz"))[0] == 503
    assert (await _asking(address, "/healthz"))[0] == 200
    later = _asking(address, INFER, GOOD)  # what comes before the end is still taken
    await held.queued(1)
    closing = asyncio.ensure_future(held.server.aclose())
    async with asyncio.timeout(5):  # well below the grace period
        await asyncio.to_thread(_ends, idle)
        held.released.set()
        for answer in (first, later):
            status, headers, body = await answer
            assert (status, headers["connection"]) == (200, "close")
            assert json.loads(body)["outputs"]
        assert await closing
    with pytest.raises(ConnectionRefusedError):
        await _asking(address, "/healthz")


async def test_a_request_beyond_the_grace_period_gets_an_answer(held: _HeldServer) -> None:
    address = await held.start()
    body = GOOD[:-1]  # the last byte never comes
    connection = _socket(address)
    connection.sendall(f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(GOOD)}\r\n\r\n".encode() + body)
    assert (await _asking(address, "/healthz"))[0] == 200
    assert await held.server.aclose(grace_s=0.5)
    assert (await asyncio.to_thread(_ends, connection)).startswith(b"HTTP/1.1 503")


def test_after_sigterm_the_server_is_not_ready_and_then_ends(start_server: Start) -> None:
    with start_server("--http-port", "0", "--drain-pause-s", "1") as server:
        address = _http(server)
        server.process.send_signal(signal.SIGTERM)
        ends = time.monotonic() + 10
        while _status(address, "/readyz") == 200:  # until the signal has arrived
            assert time.monotonic() < ends
        status, headers, _ = _ask(address, INFER, GOOD)
        assert (status, headers["connection"]) == (200, "close")
        code, stderr = server.stop()
    assert code == 0
    assert "Traceback" not in stderr
