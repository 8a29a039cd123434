"""Load reports: with an answer that asks, on a stream, over HTTP; and what a balancer makes of them."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

import serving
from protos.digits.v1 import digits_pb2
from protos.orca import load_report_pb2
from serving.inference.statistics import Counts, DurationStatistic
from serving.server.telemetry.load import Load, LoadMeter

CLASSIFY = "/digits.v1.DigitClassifierService/Classify"
SEVEN = Path(serving.__file__).parent / "samples" / "7.png"
STREAM = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
ASKS = "endpoint-load-metrics-format"
RAW = digits_pb2.RawImages(count=1, pixels=bytes(784))
CALLS = {
    "a common call": digits_pb2.ClassifyRequest(raw_images=RAW),
    "a call with options": digits_pb2.ClassifyRequest(raw_images=RAW, top_k=3),
    "a common call that fails": digits_pb2.ClassifyRequest(raw_images=RAW, model_name="resnet"),
    "a call with options that fails": digits_pb2.ClassifyRequest(raw_images=RAW, top_k=3, model_name="resnet"),
}


def _ending(channel: grpc.Channel, request: digits_pb2.ClassifyRequest, *metadata: tuple[str, str]) -> dict:
    """The metadata that a call ends with."""
    call = channel.unary_unary(CLASSIFY, request_serializer=digits_pb2.ClassifyRequest.SerializeToString)
    try:
        _, ended = call.with_call(request, timeout=20, metadata=metadata)
    except grpc.RpcError as error:
        ended = error
    return {each.key: each.value for each in ended.trailing_metadata()}


@pytest.fixture(scope="module")
def channel(server) -> Iterator[grpc.Channel]:
    """A channel to a server that has measured some calls."""
    with grpc.insecure_channel(server.address) as channel:
        ends = time.monotonic() + 30
        while not _ending(channel, CALLS["a common call"], (ASKS, "text")):
            assert time.monotonic() < ends
        yield channel


@pytest.mark.parametrize("request_", CALLS.values(), ids=CALLS)
def test_a_call_that_asks_gets_a_report_in_the_format_that_it_asks_for(
    channel: grpc.Channel, request_: digits_pb2.ClassifyRequest
) -> None:
    reports = {each: _ending(channel, request_, (ASKS, each), ("x-request-id", "a")) for each in ("json", "TEXT")}
    assert {report.pop("x-request-id") for report in reports.values()} == {"a"}
    document = json.loads(reports["json"]["endpoint-load-metrics"].removeprefix("JSON "))
    text = dict(pair.split("=") for pair in reports["TEXT"]["endpoint-load-metrics"].removeprefix("TEXT ").split(", "))
    for report in (document, text):
        assert float(report["rps_fractional"]) > 0
        assert float(report["application_utilization"]) > 0
    assert float(text["named_metrics.engine_busy"]) > 0
    assert document["named_metrics"].keys() == {"engine_busy", "queue_seconds"}


@pytest.mark.parametrize("request_", CALLS.values(), ids=CALLS)
def test_the_binary_report_has_the_field_numbers_of_xds_data_orca_v3(
    server, channel: grpc.Channel, request_: digits_pb2.ClassifyRequest
) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl, since gRPC's clients keep this report to themselves")
    content = request_.SerializeToString()
    command = ["curl", "--silent", "--http2-prior-knowledge", "--dump-header", "-", "--output", os.devnull]
    headers = ["--header", "content-type: application/grpc", "--header", "te: trailers", "--header", f"{ASKS}: bin"]
    done = subprocess.run(
        [*command, *headers, "--data-binary", "@-", f"http://{server.address}{CLASSIFY}"],
        input=b"\0" + len(content).to_bytes(4, "big") + content,
        capture_output=True,
        check=True,
        timeout=30,
    )
    (report,) = re.findall(r"endpoint-load-metrics-bin: (\S+)", done.stdout.decode())
    binary = base64.b64decode(report + "=" * (-len(report) % 4), validate=True)
    assert {field.field_number for field in UnknownFieldSet(Empty.FromString(binary))} == {1, 6, 8, 9}
    assert load_report_pb2.LoadReport.FromString(binary).rps_fractional > 0


@pytest.mark.parametrize("request_", CALLS.values(), ids=CALLS)
def test_no_other_call_gets_one(channel: grpc.Channel, request_: digits_pb2.ClassifyRequest) -> None:
    for metadata in ([], [(ASKS, "xml")], [(ASKS, "")]):
        assert not [key for key in _ending(channel, request_, *metadata) if key.startswith("endpoint-load")]


def test_a_stream_that_asks_ends_with_a_report(channel: grpc.Channel) -> None:
    method = "/digits.v1.DigitClassifierService/ClassifyStream"
    request = digits_pb2.ClassifyStreamRequest(request=CALLS["a common call"]).SerializeToString()
    call = channel.stream_stream(method)(iter([request]), timeout=20, metadata=[(ASKS, "text")])
    assert len(list(call)) == 1
    assert "rps_fractional=" in dict(call.trailing_metadata())["endpoint-load-metrics"]


def test_a_stream_of_reports_goes_on_at_its_interval_until_the_server_stops(start_server: Callable) -> None:
    with start_server() as server, grpc.insecure_channel(server.address) as channel:
        ask = channel.unary_stream(STREAM, response_deserializer=load_report_pb2.LoadReport.FromString)
        # Less than a second, so every second: a client can't make the server do nothing but report.
        reports = ask(load_report_pb2.LoadReportRequest(report_interval={"nanos": 1}).SerializeToString(), timeout=60)
        began = time.monotonic()
        next(reports)
        next(reports)
        assert time.monotonic() - began > 0.9
        ended = threading.Thread(target=server.stop, args=(signal.SIGTERM,))
        ended.start()
        with pytest.raises(grpc.RpcError) as error:
            for _ in reports:
                pass
        ended.join()
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        assert server.process.returncode == 0


@pytest.mark.parametrize(("option", "code"), [("--open-health", "OK"), ("--no-open-health", "UNAUTHENTICATED")])
def test_with_tokens_reports_are_as_open_as_health(
    start_server: Callable, tmp_path: Path, option: str, code: str
) -> None:
    (tmp_path / "tokens").write_text("secret-token-of-a-test\n")
    tokens = "--token-file", str(tmp_path / "tokens")
    with start_server(*tokens, option) as server, grpc.insecure_channel(server.address) as channel:
        try:
            next(channel.unary_stream(STREAM)(b"", timeout=20))
            found = "OK"
        except grpc.RpcError as error:
            found = error.code().name
    assert found == code


def test_over_http_the_report_is_in_headers(start_server: Callable) -> None:
    with start_server("--http-port", "0") as server:
        url = re.fullmatch(r"http on (\S+)\n", server.process.stdout.readline())[1]
        classify = urllib.request.Request(
            url + "/v1/classify", SEVEN.read_bytes(), {"content-type": "image/png", ASKS: "text"}
        )
        ends = time.monotonic() + 30
        report = None
        while report is None:
            assert time.monotonic() < ends
            with urllib.request.urlopen(classify) as answer:
                report = answer.headers["endpoint-load-metrics"]
        for path in ("/v1/model", "/v2/health/ready"):
            answers = {}
            for ask in ("bin", "text", "json"):
                with urllib.request.urlopen(urllib.request.Request(url + path, headers={ASKS: ask})) as answer:
                    answers[ask] = answer.headers
            binary = base64.b64decode(answers["bin"]["endpoint-load-metrics-bin"], validate=True)
            load_report_pb2.LoadReport.FromString(binary)
            assert answers["text"]["endpoint-load-metrics"].startswith("TEXT ")
            assert json.loads(answers["json"]["endpoint-load-metrics"].removeprefix("JSON "))
            with urllib.request.urlopen(url + path) as answer:
                assert not [name for name in answer.headers if name.startswith("endpoint-load")]


class Server:
    """What a meter sees of a server whose batches take a time, second after second."""

    def __init__(self, processes: int = 1) -> None:
        self._now = 0.0
        self.deployments = [_Deployment()]
        self.meter = LoadMeter(self.deployments, processes=processes, clock=lambda: self._now)

    def second(self, *, requests: int = 0, busy_s: float = 0.0, queue_s: float = 0.0, code: str = "OK") -> None:
        counts = self.deployments[0].statistics.counts
        counts.batches.setdefault(1, DurationStatistic()).add(busy_s)
        counts.queued.count += requests
        counts.queued.total_s += requests * queue_s
        self.meter.calls_ended("Classify", "m", "1", code, [0.01] * requests)
        self._now += 1
        self.meter.measure()

    def settled(self, **second: object) -> Load:
        for _ in range(60):
            self.second(**second)
        return self.meter.load


class _Deployment(SimpleNamespace):
    """Has what a meter reads, and is known by its identity."""

    __hash__ = object.__hash__

    def __init__(self) -> None:
        super().__init__(statistics=SimpleNamespace(counts=Counts()), batch_age_s=0.0)


def _weight(load: Load) -> float:
    """What a balancer gives a server: its requests per second by its utilisation."""
    return load.requests_per_s / load.utilization


def test_a_server_of_half_the_speed_gets_half_the_weight() -> None:
    fast, slow = Server(), Server()
    ratio = _weight(fast.settled(requests=100, busy_s=0.3)) / _weight(slow.settled(requests=100, busy_s=0.6))
    assert ratio == pytest.approx(2)


def test_of_two_engines_that_are_always_busy_the_one_with_the_longer_queue_gets_less() -> None:
    short, long = Server(), Server()
    weights = [
        _weight(each.settled(requests=100, busy_s=1, queue_s=wait)) for each, wait in ((short, 0.01), (long, 0.07))
    ]
    assert weights[0] == pytest.approx(2 * weights[1])  # 1 + 1 against 1 + 3: each doubling counts as an engine


def test_an_overload_is_forgotten_soon() -> None:
    server = Server()
    usual = server.settled(requests=100, busy_s=0.5).utilization
    server.second(requests=100, busy_s=1, queue_s=10)
    assert server.meter.load.utilization > 2 * usual
    for _ in range(30):
        server.second(requests=1, busy_s=0.005)
    assert server.meter.load.utilization < usual / 10


def test_an_engine_that_hangs_is_busy() -> None:
    server = Server()
    for _ in range(60):
        server.deployments[0].batch_age_s += 1
        server.second()
    assert server.meter.load.engine_busy == pytest.approx(1, abs=0.01)


def test_a_version_that_is_unloaded_takes_nothing_back() -> None:
    server = Server()
    before = server.settled(requests=100, busy_s=0.5).engine_busy
    server.deployments[:] = [_Deployment()]
    server.second(requests=100, busy_s=0.5)
    assert server.meter.load.engine_busy == pytest.approx(before, rel=0.01)


@pytest.mark.parametrize(
    ("code", "errors"),
    [("OK", 0), ("INVALID_ARGUMENT", 0), ("CANCELLED", 0), ("RESOURCE_EXHAUSTED", 10), ("UNAVAILABLE", 10)],
)
def test_only_what_is_the_server_s_fault_counts_as_an_error(code: str, errors: float) -> None:
    load = Server().settled(requests=10, code=code)
    assert (load.requests_per_s, load.errors_per_s) == pytest.approx((10, errors), rel=0.01)


def test_calls_that_no_model_answers_are_no_requests() -> None:
    server = Server()
    server.meter.calls_ended("/grpc.health.v1.Health/Check", "", "", "OK", [0.001] * 50)
    server.second()
    assert server.meter.load.requests_per_s == 0


def test_workers_report_for_their_server() -> None:
    one, of_four = Server(), Server(processes=4)
    second = {"requests": 100, "busy_s": 0.3}
    assert _weight(of_four.settled(**second)) == pytest.approx(4 * _weight(one.settled(**second)))
