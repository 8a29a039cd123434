"""Every call becomes a span in its client's trace, received by an HTTP server as by a collector."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

import grpc
import pytest
from collector import run_collector, spans_of

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def collector() -> Iterator[tuple[str, queue.Queue]]:
    with run_collector() as running:
        yield running


@pytest.mark.grpcio
def test_a_call_is_a_span_of_its_client_s_trace(start_server: Callable, collector: tuple) -> None:
    address, received = collector
    request = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=bytes(784), count=1))
    with start_server("--traces-endpoint", address) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            stub.Classify(request, metadata=(("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"),), timeout=20)
            with pytest.raises(grpc.RpcError):
                stub.Classify(digits_pb2.ClassifyRequest(), timeout=20)
        assert server.stop()[0] == 0  # exports the remaining spans
    path, content = received.get(timeout=20)
    assert path == "/v1/traces"
    services, spans = zip(*spans_of(content), strict=True)
    assert {*services} == {"digits-serving"}
    assert [span.name.strip("/") for span in spans] == ["digits.v1.DigitClassifierService/Classify"] * 2
    assert spans[0].trace_id.hex() == TRACE
    codes = [{a.key: a.value.int_value for a in span.attributes}["rpc.grpc.status_code"] for span in spans]
    assert codes == [0, grpc.StatusCode.INVALID_ARGUMENT.value[0]]


def test_an_invalid_collector_address_is_a_clear_error(command: Callable) -> None:
    done = command("digits-serve", "--port", "0", "--traces-endpoint", "collector:4318")
    assert done.returncode == 2
    assert "--traces-endpoint must be like http://host:4318, not 'collector:4318'" in done.stderr
