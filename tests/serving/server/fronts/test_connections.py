"""Limits on calls and connections, and what happens to clients that are silent, vanish or ping too often."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.client import CallFailed, Client

Start = Callable[..., object]
PING, PING_ANSWER = (b"\x00\x00\x08\x06" + flags + b"\x00\x00\x00\x00" for flags in (b"\x00", b"\x01"))


def _request(images: np.ndarray) -> digits_pb2.ClassifyRequest:
    return digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=images.tobytes(), count=len(images)))


def _classifies(address: str, digits: tuple) -> None:
    with Client(address) as client:
        assert (client.classify(digits[0][:100]).labels == digits[1][:100]).mean() > 0.95


class _Stream:
    """A stream that the server has answered once, and that stays open."""

    def __init__(self, channel: grpc.Channel, digits: tuple) -> None:
        self._requests: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._requests.put(digits_pb2.ClassifyStreamRequest(request=_request(digits[0][:2])))
        self.call = digits_pb2_grpc.DigitClassifierServiceStub(channel).ClassifyStream(
            iter(self._requests.get, None), timeout=60
        )
        assert len(next(self.call).response.labels) == 2

    def finish(self) -> None:
        self._requests.put(None)
        assert list(self.call) == []


class _Relay:
    """A proxy between clients and a server that counts connections and can go silent like a broken network."""

    def __init__(self, address: str) -> None:
        host, port = address.split(":")
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = threading.Semaphore(0)
        self.closed_by_server = threading.Semaphore(0)
        self.pings, self.ping_answers = threading.Semaphore(0), threading.Semaphore(0)
        self._silent = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        self._silent.set()

    def close(self) -> None:
        for opened in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self.accepted.release()
                threading.Thread(target=self._forward, args=(client, server, self.pings), daemon=True).start()
                threading.Thread(target=self._forward, args=(server, client, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, pings: threading.Semaphore | None) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65536):
                if pings is not None and received.startswith(PING):
                    pings.release()
                if pings is not None and received.startswith(PING_ANSWER):
                    self.ping_answers.release()
                if not self._silent.is_set():
                    target.sendall(received)
        if pings is None:
            self.closed_by_server.release()
        if not self._silent.is_set():
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def relay() -> Iterator[Callable[[str], _Relay]]:
    made: list[_Relay] = []

    def make(address: str) -> _Relay:
        made.append(_Relay(address))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_call_beyond_the_limit_is_refused_at_once_while_health_answers(start_server: Start, digits: tuple) -> None:
    with start_server("--max-concurrent-calls", "3") as server:
        with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            streams = [_Stream(channel, digits) for _ in range(3)]
            for call in (stub.Classify, stub.Classify.future):
                before = time.monotonic()
                with pytest.raises(grpc.RpcError) as refused:
                    call(_request(digits[0][:1]), timeout=20).result()
                assert time.monotonic() - before < 2  # of 20: nothing waits
                assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert refused.value.details() == "3 calls are running already"
                metadata = dict(refused.value.trailing_metadata())
                status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
                retry = error_details_pb2.RetryInfo()
                assert status.details[0].Unpack(retry)
                assert 0 < retry.retry_delay.ToTimedelta().total_seconds() < 5
            client.wait_until_serving(2)
            assert ProtoReflectionDescriptorDatabase(channel).get_services()
            answers: queue.SimpleQueue[object] = queue.SimpleQueue()
            patient = threading.Thread(target=lambda: answers.put(client.classify(digits[0][:5], timeout_s=30)))
            patient.start()
            streams[0].call.cancel()
            assert len(answers.get(timeout=30).labels) == 5
            patient.join()
            for stream in streams[1:]:
                stream.finish()
        _classifies(server.address, digits)
        assert server.stop()[0] == 0


def test_every_way_of_ending_a_call_gives_its_place_back(start_server: Start, digits: tuple) -> None:
    with start_server("--max-concurrent-calls", "1") as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            for number in range(30):
                stub.Classify.future(_request(digits[0]), timeout=20).cancel()
                stub.ClassifyStream(iter([digits_pb2.ClassifyStreamRequest()]), timeout=20).cancel()
                if number % 3 == 0:
                    stub.Classify.future(_request(digits[0]), timeout=0.001).exception(timeout=20)
                if number % 5 == 0:
                    channel.unary_unary("/digits.v1.DigitClassifierService/Classify").future(b"\xff").exception(20)
        _classifies(server.address, digits)
        with grpc.insecure_channel(server.address) as channel:
            _Stream(channel, digits)  # dropped with its channel
        _classifies(server.address, digits)


def test_calls_beyond_a_connection_s_limit_wait_and_leave_other_connections_alone(
    start_server: Start, digits: tuple
) -> None:
    with start_server("--max-streams-per-connection", "1") as server:
        with grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            held = _Stream(channel, digits)
            waiting = digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify.future(
                _request(digits[0][:3]), timeout=30
            )
            _classifies(server.address, digits)
            assert not waiting.done()
            held.finish()
            assert len(waiting.result().labels) == 3
        _classifies(server.address, digits)


@pytest.mark.grpcio
def test_a_connection_beyond_the_limit_is_closed_at_once(start_server: Start, digits: tuple) -> None:
    with start_server("--max-connections", "2") as server:
        host, port = server.address.split(":")
        with (
            socket.create_connection((host, int(port)), timeout=20) as first,
            socket.create_connection((host, int(port)), timeout=20) as second,
        ):
            assert first.recv(1)  # the server's settings
            assert second.recv(1)
            with socket.create_connection((host, int(port)), timeout=20) as third:
                assert third.recv(1) == b""
        _classifies(server.address, digits)


@pytest.mark.grpcio
def test_clients_that_say_nothing_are_closed(start_server: Start, digits: tuple) -> None:
    with start_server("--handshake-timeout-s", "0.5") as server:
        host, port = server.address.split(":")
        for said in (b"", b"PRI * HTTP/2.0\r\n\r\nSM", b"\x16\x03\x01"):
            with socket.create_connection((host, int(port)), timeout=20) as silent:
                silent.sendall(said)
                with contextlib.suppress(ConnectionResetError):
                    while silent.recv(4096):
                        pass
        _classifies(server.address, digits)


def test_a_client_that_vanishes_is_noticed_and_holds_no_place(
    start_server: Start, digits: tuple, relay: Callable
) -> None:
    options = ("--keepalive-s", "0.5", "--keepalive-timeout-s", "0.5", "--max-concurrent-calls", "1")
    with start_server(*options) as server:
        between = relay(server.address)
        with grpc.insecure_channel(between.address) as channel:
            _Stream(channel, digits)
            between.fall_silent()
            assert between.closed_by_server.acquire(timeout=20)
            _classifies(server.address, digits)


def test_an_idle_client_that_vanishes_is_noticed_too(start_server: Start, digits: tuple, relay: Callable) -> None:
    """However long it was idle before."""
    with start_server("--keepalive-s", "0.5", "--keepalive-timeout-s", "0.5") as server:
        between = relay(server.address)
        with Client(between.address) as client:
            assert len(client.classify(digits[0][:3]).labels) == 3
            for _ in range(4):
                assert between.ping_answers.acquire(timeout=20)
            between.fall_silent()
            assert between.closed_by_server.acquire(timeout=20)
        _classifies(server.address, digits)


def test_clients_that_ping_often_keep_their_connection(server, digits: tuple, relay: Callable) -> None:
    """By default gRPC servers answer the third such ping with too_many_pings."""
    between = relay(server.address)
    options = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    with grpc.insecure_channel(between.address, options) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        assert len(stub.Classify(_request(digits[0][:3]), timeout=20).labels) == 3
        assert between.accepted.acquire(timeout=1)
        for _ in range(6):
            assert between.pings.acquire(timeout=20)
        assert len(stub.Classify(_request(digits[0][:3]), timeout=20).labels) == 3
        assert not between.accepted.acquire(blocking=False)
        assert not between.closed_by_server.acquire(blocking=False)
    _classifies(server.address, digits)


@pytest.mark.grpcio
def test_age_moves_a_client_to_a_new_connection_without_a_failed_call(
    start_server: Start, digits: tuple, relay: Callable
) -> None:
    with start_server("--max-connection-age-s", "0.3") as server:
        between = relay(server.address)
        with grpc.insecure_channel(between.address) as channel:
            # Without our retries: gRPC's transparent ones, on by default, cover calls that meet the server's GOAWAY.
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            expected = stub.Classify(_request(digits[0][:50]), timeout=20).labels[:]
            assert between.accepted.acquire(timeout=1)
            moved, until = 0, time.monotonic() + 30
            while moved < 4:
                assert time.monotonic() < until
                calls = [stub.Classify.future(_request(digits[0][:50]), timeout=20) for _ in range(8)]
                assert all(call.result().labels[:] == expected for call in calls)
                moved += between.accepted.acquire(blocking=False)
        _classifies(server.address, digits)


@pytest.mark.grpcio
def test_calls_that_outlive_a_connection_s_grace_end_as_unavailable(start_server: Start, digits: tuple) -> None:
    with start_server("--max-connection-age-s", "0.5", "--max-connection-age-grace-s", "0.5") as server:
        with grpc.insecure_channel(server.address) as channel:
            stream = _Stream(channel, digits)
            with pytest.raises(grpc.RpcError) as ended:
                next(stream.call)
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        _classifies(server.address, digits)


def test_a_message_over_the_limit_is_told_both_sizes(start_server: Start, digits: tuple) -> None:
    with start_server("--max-batch-rows", "4", "--max-encoded-bytes", "1000") as server:
        with grpc.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                digits_pb2_grpc.DigitClassifierServiceStub(channel).Classify(_request(digits[0]), timeout=20)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            size, limit = _request(digits[0]).ByteSize(), 4 * 784 + 64 * 1024
            assert f"Received message larger than max ({size} vs. {limit})" in refused.value.details()
        _classifies(server.address, digits)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-concurrent-calls", "0"], "--max-concurrent-calls"),
        (["--max-streams-per-connection", "0"], "--max-streams-per-connection"),
        (["--max-connections", "-1"], "--max-connections"),
        (["--max-connection-age-s", "nan"], "--max-connection-age-s"),
        (["--keepalive-s", "0"], "--keepalive-s"),
        (["--keepalive-timeout-s", "1e9"], "--keepalive-timeout-s"),
        (["--handshake-timeout-s", "-1"], "--handshake-timeout-s"),
    ],
)
def test_limits_out_of_range_are_told(command: Callable, options: list[str], said: str) -> None:
    done = command("digits-serve", "--port", "0", *options, timeout=20)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_client_gives_up_waiting_for_a_place_with_its_deadline(start_server: Start, digits: tuple) -> None:
    with start_server("--max-concurrent-calls", "1") as server:
        with grpc.insecure_channel(server.address) as channel:
            held = _Stream(channel, digits)
            with Client(server.address) as client, pytest.raises(CallFailed) as failed:
                client.classify(digits[0][:3], timeout_s=0.5)
            assert failed.value.code.name in {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
            held.finish()
        _classifies(server.address, digits)
