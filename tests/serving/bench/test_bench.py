"""digits-bench: real servers under real loads. What is asserted is that figures are consistent, not good."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import psutil
import pytest
from google.rpc import error_details_pb2

from protos.digits.v1 import digits_pb2
from serving.bench.calls import has_labels, stream_has_labels
from serving.bench.generator import Generator, Load
from serving.bench.load import RequestFailed
from serving.bench.measurement import Measurement, merge
from serving.bench.result import results
from serving.bench.scenario import BenchConfig, Scenario
from serving.bench.target import Target
from serving.bench.workload import PreparedRequest, draw_images, make_workload
from serving.client import Client
from serving.errors import InvalidConfig
from serving.repository.repository import Repository, StoredModel

Start = Callable[..., Any]

MARK = "DIGITS_BENCH_TEST"


class Bench:
    """One run of the command; leaves no process behind, whatever happened to it."""

    def __init__(self, *arguments: object, env: dict[str, str] | None = None) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving", "bench", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {}), MARK: self._mark},
            start_new_session=True,  # so that a signal to the group is this run's alone, as in a terminal
        )
        self.stderr = ""

    def wait_for(self, progress: str) -> None:
        """Returns once the progress bar says so."""
        while progress not in self.stderr:
            read = self.process.stderr.read(1)
            assert read, f"ended without {progress!r}: {self.stderr}"
            self.stderr += read

    def end(self) -> tuple[int, str, str]:
        try:
            stdout, stderr = self.process.communicate(timeout=60)
        finally:
            self.process.kill()
        assert self._left() == []
        return self.process.returncode, stdout, self.stderr + stderr

    def _left(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self._mark:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def bench(*arguments: object, **options: Any) -> tuple[int, str, str]:
    return Bench(*arguments, **options).end()


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory, shipped: StoredModel) -> Path:
    """A repository whose model calls each digit by the next one's label."""
    model = onnx.load_from_string(shipped.content)
    (last,) = [weights for weights in model.graph.initializer if weights.dims[-1:] == [10] and len(weights.dims) == 2]
    last.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(last), 1, axis=1).copy(), last.name))
    content = model.SerializeToString()
    manifest = dataclasses.replace(shipped.manifest, sha256=hashlib.sha256(content).hexdigest())
    root = tmp_path_factory.mktemp("other")
    Repository(root).publish(content, manifest)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of all layers on a server of its own."""
    out = tmp_path_factory.mktemp("bench")
    code, stdout, stderr = bench(
        *("--seconds", 0.1, "--rounds", 2, "--callers", "1,5", "--batch-rows", "1,64", "--generators", 2),
        *("--json", out / "b.json", "--plot", out / "b.png", "--", "--max-wait-ms", 1),
    )
    assert code == 0, stderr
    return {"json": json.loads((out / "b.json").read_text()), "png": out / "b.png", "table": stdout, "stderr": stderr}


def _scenario(report: dict[str, Any], layer: str, rows: int, mode: str = "", callers: int = 1) -> dict[str, Any]:
    (found,) = [
        scenario
        for scenario in report["scenarios"]
        if (scenario["layer"], scenario["batch_rows"], scenario["mode"], scenario["callers"])
        == (layer, rows, mode, callers)
    ]
    return found


def test_every_scenario_is_measured_in_every_round(whole: dict[str, Any]) -> None:
    scenarios = whole["json"]["scenarios"]
    assert [scenario["layer"] for scenario in scenarios] == (["engine"] + ["batcher", *["echo", "wire"] * 2] * 2) * 2
    for scenario in scenarios:
        assert scenario["rounds"] == 2
        assert scenario["answers"] >= 2
        assert scenario["errors"] == {}
        assert scenario["wrong"] == 0
        assert 0 < scenario["p50_ms"] <= scenario["p99_ms"] <= scenario["p99_9_ms"]
        assert scenario["images_per_s"] == pytest.approx(scenario["requests_per_s"] * scenario["batch_rows"])
        assert scenario["cpu_us_per_request"] == pytest.approx(scenario["cpu_us_per_image"] * scenario["batch_rows"])
    assert whole["json"]["server_options"] == ["--max-wait-ms", "1"]
    assert whole["json"]["expected_labels_from"] == "engine"


def test_shares_are_of_the_engine_and_the_echo_of_the_same_run(whole: dict[str, Any]) -> None:
    report = whole["json"]
    for rows, mode, callers in [(1, "unary", 1), (1, "stream", 5), (64, "unary", 5), (64, "stream", 1)]:
        engine, batcher = _scenario(report, "engine", rows), _scenario(report, "batcher", rows, callers=callers)
        echo, wire = _scenario(report, "echo", rows, mode, callers), _scenario(report, "wire", rows, mode, callers)
        for scenario in (engine, batcher, wire):
            assert scenario["images_per_s_of_engine"] == pytest.approx(
                scenario["images_per_s"] / engine["images_per_s"]
            )
            assert scenario["cpu_per_image_of_engine"] == pytest.approx(
                scenario["cpu_us_per_image"] / engine["cpu_us_per_image"]
            )
        assert echo["images_per_s_of_engine"] is None
        assert wire["p50_of_echo"] == pytest.approx(wire["p50_ms"] / echo["p50_ms"])
        assert wire["cpu_of_echo_and_engine"] == pytest.approx(
            wire["cpu_us_per_request"] / (echo["cpu_us_per_request"] + engine["cpu_us_per_request"])
        )


def test_the_table_says_what_the_json_says(whole: dict[str, Any]) -> None:
    upper, lower, *lines = whole["table"].splitlines()
    assert lower.split()[0] == "scenario"
    assert "p99.9" in upper
    assert "errors" not in lower  # there were none: no column
    assert len(lines) == len(whole["json"]["scenarios"])
    for line, scenario in zip(lines, whole["json"]["scenarios"], strict=True):
        assert line.split()[0] == scenario["layer"]
        assert f"{scenario['images_per_s']:,.0f}" in line.split()
        assert f"{scenario['p99_9_ms']:,.2f}" in line.split()


def test_progress_and_plot(whole: dict[str, Any]) -> None:
    assert "44/44" in whole["stderr"]
    assert "wire stream 5 callers, 64 rows" in whole["stderr"]
    assert whole["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_wrong_answers_are_counted_and_end_with_exit_code_1(other_model: Path, mode: str) -> None:
    code, stdout, stderr = bench(
        *("--layers", "wire", "--seconds", 0.1, "--rounds", 1, "--mode", mode, "--callers", 1, "--batch-rows", 64),
        *("--", "--repository", other_model),
    )
    assert code == 1
    assert "answers were wrong" in stderr
    assert "Traceback" not in stderr
    assert "wrong" in stdout.splitlines()[1]


def test_a_target_is_measured_and_left_running(server: Any, tmp_path: Path) -> None:
    """Labels come from its own first answer; its CPU is known where its process is."""
    figures = {}
    for name, options in {"without": (), "with": ("--pid", server.process.pid)}.items():
        code, stdout, stderr = bench(
            *("--target", server.address, *options, "--layers", "wire", "--seconds", 0.2, "--rounds", 1),
            *("--callers", 2, "--batch-rows", 1, "--json", tmp_path / "b.json"),
        )
        assert code == 0, stderr
        assert ("CPU" in stdout) == (name == "with")
        report = json.loads((tmp_path / "b.json").read_text())
        assert report["expected_labels_from"] == "target"
        assert report["target"] == server.address
        figures[name] = report["scenarios"][0]
    assert figures["without"]["cpu_us_per_request"] is None
    assert figures["with"]["cpu_us_per_request"] > 0
    with Client(server.address) as client:
        assert client.get_model().model_name == "mnist_convnet"


def test_a_target_with_another_model_is_not_compared_with_the_engine(other_model: Path, start_server: Start) -> None:
    with start_server("--repository", str(other_model)) as other:
        load = ("--target", other.address, "--seconds", 0.1, "--rounds", 1, "--callers", 1, "--batch-rows", 1)
        code, _, stderr = bench(*load, "--layers", "engine,wire")
        assert code == 1
        assert "serves another model" in stderr
        assert bench(*load, "--layers", "wire")[0] == 0
        assert bench(*load, "--layers", "engine,wire", "--repository", other_model)[0] == 0


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_a_stall_is_part_of_the_latency_of_all_requests_that_were_due(
    start_server: Start, tmp_path: Path, mode: str
) -> None:
    """Coordinated omission: half a second in which 100 requests are due, but only two callers can notice."""
    with start_server() as server:
        run = Bench(
            *("--target", server.address, "--layers", "wire", "--mode", mode, "--rate", 200, "--callers", 2),
            *("--generators", 2, "--batch-rows", 1, "--seconds", 2, "--rounds", 1, "--json", tmp_path / "b.json"),
        )
        run.wait_for("wire ")
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)  # the stall itself
        server.process.send_signal(signal.SIGCONT)
        code, _, stderr = run.end()
    assert code == 0, stderr
    (scenario,) = json.loads((tmp_path / "b.json").read_text())["scenarios"]
    assert scenario["rate_per_s"] == 200
    assert scenario["answers"] == 400  # of both generators, and none was left out
    assert scenario["p99_ms"] > 350


def test_a_rate_that_nobody_can_keep_up_with_ends_in_time(tmp_path: Path) -> None:
    code, stdout, stderr = bench(
        *("--layers", "batcher,wire", "--mode", "unary", "--rate", 20_000, "--callers", 1, "--batch-rows", 64),
        *("--seconds", 0.3, "--rounds", 1, "--json", tmp_path / "b.json"),
    )
    assert code == 0, stderr
    for scenario in json.loads((tmp_path / "b.json").read_text())["scenarios"]:
        assert scenario["answers"] + scenario["errors"]["NOT_SENT"] == 6000
    assert "NOT_SENT" in stdout


def test_refused_requests_are_counted_not_timed(tmp_path: Path) -> None:
    code, stdout, stderr = bench(
        *("--layers", "wire", "--callers", 24, "--batch-rows", 64, "--seconds", 0.3, "--rounds", 1),
        *("--callers-per-stream", 1, "--json", tmp_path / "b.json"),
        *("--", "--max-batch-rows", 64, "--max-queue-rows", 64),
    )
    assert code == 0, stderr
    for scenario in json.loads((tmp_path / "b.json").read_text())["scenarios"]:
        assert set(scenario["errors"]) == {"RESOURCE_EXHAUSTED"}
        assert scenario["answers"] > 0
        assert scenario["wrong"] == 0
    assert "RESOURCE_EXHAUSTED" in stdout


def test_a_scenario_without_any_answer_fails() -> None:
    code, _, stderr = bench(
        *("--layers", "wire", "--mode", "unary", "--callers", 1, "--batch-rows", "65", "--seconds", 0.1, "--rounds", 1),
        *("--", "--max-batch-rows", 64),
    )
    assert code == 1
    assert stderr.splitlines()[-1] == "Error: no request was answered: wire unary 1 callers, 65 rows"


H2LOAD = ("--layers", "wire", "--mode", "unary", "--load-generator", "h2load")
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load: apt-get install nghttp2-client")


@needs_h2load
def test_front_ends_are_compared_side_by_side_under_load_from_h2load(tmp_path: Path) -> None:
    code, stdout, stderr = bench(
        *(*H2LOAD, "--front", "grpcio,native", "--callers", "1,8", "--connections", 4, "--batch-rows", 1),
        *("--seconds", 0.3, "--rounds", 1, "--json", tmp_path / "b.json"),
    )
    assert code == 0, stderr
    scenarios = json.loads((tmp_path / "b.json").read_text())["scenarios"]
    assert [(scenario["front"], scenario["callers"]) for scenario in scenarios] == [
        *(("grpcio", 1), ("native", 1), ("grpcio", 8), ("native", 8)),
    ]
    for scenario in scenarios:
        assert scenario["answers"] > 10
        assert scenario["answers"] == pytest.approx(0.3 * scenario["requests_per_s"], rel=0.5)
        assert 0 < scenario["p50_ms"] <= scenario["p99_ms"] < 300
        assert scenario["cpu_us_per_request"] > 0
        assert 0 < scenario["generator_share"] < 1
        assert scenario["memory_mb"] > 50
    assert [line.split()[:3] for line in stdout.splitlines()[2:4]] == [
        *(["wire", "grpcio", "unary"], ["wire", "native", "unary"]),
    ]


@needs_h2load
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-batch-rows", 64, "--max-queue-rows", 64), "so calls failed; --load-generator grpcio tells why"),
        (("--max-batch-rows", 63), "INVALID_ARGUMENT"),
    ],
    ids=["some calls fail", "every call fails"],
)
def test_h2load_does_not_count_errors_of_grpc_as_answers(options: tuple[object, ...], said: str) -> None:
    load = ("--callers", 24, "--connections", 4, "--batch-rows", 64, "--seconds", 0.5, "--rounds", 1)
    code, stdout, stderr = bench(*H2LOAD, *load, "--", *options)
    assert code == 1
    assert said in stderr.splitlines()[-1]
    assert stdout == ""


@needs_h2load
def test_h2load_ends_with_the_command() -> None:
    run = Bench(*H2LOAD, "--callers", 4, "--batch-rows", 1, "--seconds", 30, "--rounds", 1)
    run.wait_for("wire unary")
    os.killpg(run.process.pid, signal.SIGINT)
    code, _, stderr = run.end()
    assert code == 1
    assert stderr.splitlines()[-1].startswith("Error: interrupted after 0 of 1")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_what_was_measured_so_far(number: int) -> None:
    run = Bench("--layers", "engine,echo,wire", "--callers", 4, "--batch-rows", 1, "--seconds", 0.5, "--rounds", 50)
    run.wait_for("wire stream")
    os.killpg(run.process.pid, number)
    code, stdout, stderr = run.end()
    assert code == 1
    assert stderr.splitlines()[-1].startswith("Error: interrupted after ")
    assert "Traceback" not in stderr
    assert [line.split()[0] for line in stdout.splitlines()[2:]][:3] == ["engine", "echo", "wire"]


def test_a_server_that_dies_is_reported_with_what_was_measured(start_server: Start) -> None:
    with start_server() as server:
        run = Bench(
            *("--target", server.address, "--layers", "wire", "--callers", 4, "--batch-rows", 1, "--seconds", 0.5),
            *("--timeout-s", 1),
        )
        run.wait_for("wire stream")
        server.process.kill()
        code, stdout, stderr = run.end()
    assert code == 1
    assert f"{server.address}: no connection within 1 s" in stderr
    assert "Traceback" not in stderr
    assert stdout.splitlines()[2].startswith("wire unary")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--target", "127.0.0.1:1", "--layers", "wire"), 1, "127.0.0.1:1: UNAVAILABLE"),
        (("--", "--repository", "/nowhere"), 1, "serving serve did not start: Error: /nowhere: not a model"),
        (("--repository", "/nowhere"), 1, "/nowhere: not a model repository"),
        (("--pid", "1"), 2, "--pid belongs to --target"),
        (("--target", "127.0.0.1:1", "--", "--workers", "2"), 2, "already running"),
        (("--layers", "wired"), 2, "--layers must be one or more of engine, batcher, echo, wire, not 'wired'"),
        (("--front", "grpc"), 2, "--front must be one or more of grpcio, native, not 'grpc'"),
        (("--layers", "echo", "--front", "native"), 2, "--front needs the layer wire, which is not measured"),
        (("--target", "127.0.0.1:1", "--front", "native"), 2, "--front can't be given for a --target"),
        (("--load-generator", "h2load"), 2, "h2load makes unary calls as fast as answers arrive: give --mode unary"),
        (("--callers", "1,x"), 2, "is not a list of integers"),
        (("--batch-rows", "0"), 2, "--batch-rows must be above 0"),
        (("--rate", "0"), 2, "--rate must be above 0"),
        (("--json", "/nowhere/b.json"), 2, "there is no directory /nowhere"),
    ],
)
def test_one_line_says_what_is_wrong(arguments: tuple[str, ...], code: int, said: str) -> None:
    found, stdout, stderr = bench(*arguments)
    assert found == code
    assert stdout == ""
    assert said in stderr.splitlines()[-1]


@pytest.mark.parametrize(("package", "options"), [("psutil", ()), ("matplotlib", ("--plot", "b.png"))])
def test_a_missing_package_is_told_before_anything_starts(
    package: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError('gone', name={package!r})")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    code, _, stderr = bench(*options, env={"PYTHONPATH": path})
    assert code == 1
    assert stderr == (
        f"Error: {package} is not installed; digits-bench needs the extra bench: "
        "pip install '.[bench]' in a checkout of digits-serving\n"
    )


def test_a_missing_h2load_is_told_before_anything_starts() -> None:
    code, _, stderr = bench(*H2LOAD, env={"PATH": "/nowhere"})
    assert (code, stderr) == (1, "Error: h2load is not installed; on Debian: apt-get install nghttp2-client\n")


@pytest.fixture
def generator() -> Iterator[Generator]:
    made = Generator()
    yield made
    made.close()


@pytest.mark.parametrize("mode", ["unary", "stream"])
def test_each_connection_is_one_of_its_own(server: Any, generator: Generator, mode: str) -> None:
    """A server with workers behind one port gets connections on all of them only if there are several."""
    blank = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=bytes(784), count=1))
    message = digits_pb2.ClassifyStreamRequest(request=blank) if mode == "stream" else blank
    load = Load(
        address=server.address,
        method=f"/digits.v1.DigitClassifierService/Classify{'Stream' if mode == 'stream' else ''}",
        mode=mode,
        echo=False,
        requests=[PreparedRequest(message=message.SerializeToString(), expected=b"")],
        callers=6,
        connections=3,
        callers_per_stream=2,
        seconds=0.1,
        timeout_s=10,
        rate_per_s=None,
        phase=0,
    )
    generator.prepare(load)
    port = int(server.address.rpartition(":")[2])
    open_now = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == port]
    assert len(open_now) == 3
    measurement = generator.run()
    assert len(measurement.latencies_s) >= 6
    assert measurement.errors == {}


def test_cpu_is_that_of_the_whole_tree_also_of_processes_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\n"
    program = (
        f"import subprocess, sys\nburn = [sys.executable, '-c', {burn!r}]\nsubprocess.run(burn)\n"
        f"living = subprocess.Popen([sys.executable, '-c', {burn + 'print(flush=True)' + chr(10) + 'input()'!r}],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "living.stdout.readline()\nprint(flush=True)\ninput()\nliving.communicate(b'\\n')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    target = Target(address="127.0.0.1:1", pid=process.pid)
    assert target.cpu_s() > 0.55
    assert target.memory_bytes() > 1e6
    process.communicate(b"\n")
    assert target.cpu_s() is None
    assert target.memory_bytes() is None
    assert Target(address="127.0.0.1:1").cpu_s() is None


def _response(labels: list[int], **fields: Any) -> bytes:
    return digits_pb2.ClassifyResponse(labels=labels, **fields).SerializeToString()


def test_labels_are_compared_one_by_one() -> None:
    right = [3, 1, 4, 200, 5]
    answer = digits_pb2.ClassifyResponse(labels=right, confidences=[0.5] * 5, model_name="m")
    assert has_labels(answer.SerializeToString(), _response(right))
    assert not has_labels(answer.SerializeToString(), _response([3, 1, 4, 200, 6]))
    assert not has_labels(answer.SerializeToString(), _response([1, 3, 4, 200, 5]))
    assert not has_labels(answer.SerializeToString(), _response([*right, 1]))
    assert not has_labels(answer.SerializeToString(), _response(right[:4]))
    assert not has_labels(b"", _response(right))
    # protobuf promises no order of fields
    later = digits_pb2.ClassifyResponse(model_name="m").SerializeToString() + _response(right)
    assert has_labels(later, _response(right))


def test_labels_are_compared_and_errors_found_in_a_stream() -> None:
    for count in (1, 300):
        labels = list(range(count))
        answer = digits_pb2.ClassifyResponse(labels=labels, confidences=[0.5] * count)
        message = digits_pb2.ClassifyStreamResponse(response=answer).SerializeToString()
        assert stream_has_labels(message, _response(labels))
        assert not stream_has_labels(message, _response(labels[::-1] if count > 1 else [7]))
    status = digits_pb2.Status(code=8, message="full")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(250)
    status.details.add().Pack(retry)
    with pytest.raises(RequestFailed) as refused:
        stream_has_labels(digits_pb2.ClassifyStreamResponse(error=status).SerializeToString(), b"")
    assert refused.value.code == "RESOURCE_EXHAUSTED"
    assert refused.value.pause_s == pytest.approx(0.25)


def _measurement(latencies_ms: list[float], *, seconds: float, cpu_s: float | None, **fields: Any) -> Measurement:
    return Measurement(
        latencies_s=np.array(latencies_ms) / 1e3, began_s=10.0, ended_s=10.0 + seconds, cpu_s=cpu_s, **fields
    )


def test_figures_are_medians_of_rounds() -> None:
    wire = Scenario(layer="wire", mode="unary", batch_rows=10)
    rounds = [
        _measurement([1, 2, 3, 4], seconds=2, cpu_s=0.004, errors={"UNAVAILABLE": 1}),
        _measurement([10, 20, 30, 40], seconds=1, cpu_s=0.4, errors={"UNAVAILABLE": 2, "INTERNAL": 1}, wrong=1),
        _measurement([2, 3, 4, 5], seconds=4, cpu_s=0.008),
    ]
    found = results(
        {wire: rounds, Scenario(layer="engine", batch_rows=10): [_measurement([1], seconds=0.5, cpu_s=0.001)]}
    )[wire]
    assert found.rounds == 3
    assert found.answers == 12
    assert found.requests_per_s == pytest.approx(2)
    assert found.images_per_s == pytest.approx(20)
    assert (found.p50_ms, found.p99_ms, found.p99_9_ms) == pytest.approx((4, 5, 5))
    assert found.cpu_us_per_request == pytest.approx(2000)
    assert found.images_per_s_of_engine == pytest.approx(1)
    assert found.cpu_per_image_of_engine == pytest.approx(2)
    assert found.cpu_of_echo_and_engine is None
    assert found.errors == {"UNAVAILABLE": 3, "INTERNAL": 1}
    assert found.wrong == 1


def test_what_several_generators_measured_is_merged() -> None:
    first = _measurement([1, 2], seconds=1, cpu_s=None, errors={"INTERNAL": 1}, load_cpu_s=0.5)
    second = dataclasses.replace(first, began_s=9.0, ended_s=10.5, wrong=2, load_cpu_s=0.7)
    both = merge([first, second])
    assert len(both.latencies_s) == 4
    assert (both.began_s, both.ended_s, both.load_cpu_s) == (9.0, 11.0, 0.7)
    assert (both.errors, both.wrong) == ({"INTERNAL": 2}, 2)


def test_images_differ_and_doubtful_ones_are_not_sent() -> None:
    images = draw_images((28, 28, 1))
    assert images.shape == (2048, 28, 28, 1)
    assert draw_images((40, 30, 3)).shape[1:] == (40, 30, 3)
    probabilities = np.full((2048, 3), 0.25, np.float32)
    probabilities[:, 1] = 0.5
    probabilities[7] = [0.499, 0.501, 0]
    workload = make_workload(images, probabilities, "m")
    assert len(workload.images) == 2047
    assert set(workload.labels) == {1}
    requests = [prepared.message for prepared in workload.requests(16, "unary")]
    assert len(set(requests)) == len(requests) > 10


def test_echoes_are_as_long_as_requests_and_answers() -> None:
    images = draw_images((28, 28, 1))
    workload = make_workload(images, np.eye(10, dtype=np.float32)[np.arange(2048) % 10], "mnist_convnet")
    for rows in (1, 64):
        (wire, *_), (echo, *_) = workload.requests(rows, "unary"), workload.echo_requests(rows, "unary")
        assert len(echo.message) == len(wire.message)
        answer = digits_pb2.ClassifyResponse(
            labels=[1] * rows, confidences=[0.5] * rows, model_name="mnist_convnet", model_version=1
        )
        assert abs(len(echo.expected) - answer.ByteSize()) < 10


def test_options_are_checked() -> None:
    with pytest.raises(InvalidConfig, match="modes must be one or more of unary, stream, not 'batch'"):
        BenchConfig(modes=("batch",))
    with pytest.raises(InvalidConfig, match="seconds must be above 0"):
        BenchConfig(seconds=0)
    with pytest.raises(InvalidConfig, match="rates_per_s must be above 0"):
        BenchConfig(rates_per_s=(-1.0,))
    with pytest.raises(InvalidConfig, match="callers must not be empty"):
        BenchConfig(callers=())
