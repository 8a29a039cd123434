"""What a server logs, and how a client finds its own request there."""

from __future__ import annotations

import json
from collections.abc import Callable

import grpc
import pytest

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

REQUEST = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=bytes(784), count=1))


def _trailer(call: grpc.Call) -> dict[str, str]:
    return dict(call.trailing_metadata() or ())


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
