"""Every program in examples/ runs as its reader runs it, against a real server and against none."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from built_examples import build_go, build_java
from collector import run_collector, spans_of
from ports import free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
PYTHON = {name: f"python/{name}.py" for name in ("classify", "classify_async", "plain_grpc", "stream", "telemetry")}
# Files that belong to an example but are not run themselves; the notebook has a test of its own.
OTHERS = {"README.md", "go/go.mod", "java/pom.xml", "node/package.json", "notebook.ipynb"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """An example, once with a server and once without.

    Attributes:
        answered: The process that calls a server.
        alone: The process that calls a port on which nobody listens.
        port: That port.
    """

    answered: subprocess.Popen[str]
    alone: subprocess.Popen[str]
    port: int


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[str, queue.Queue]]:
    with run_collector() as running:
        yield running


@pytest.fixture(scope="module")
def addresses(start_server: Callable, collector: tuple) -> Iterator[dict[str, str]]:
    """Of gRPC and of HTTP, of one server that also exports traces."""
    environment = {**os.environ, "OTEL_BSP_SCHEDULE_DELAY": "100"}  # milliseconds
    with start_server("--http-port", "0", "--traces-endpoint", collector[0], env=environment) as running:
        http = re.fullmatch(r"http on http://(\S+)\n", running.process.stdout.readline())[1]
        yield {"gRPC": running.address, "HTTP": http}
        code, stderr = running.stop()
        assert code == 0, stderr


def _python(file: str) -> Callable[..., list[object]]:
    return lambda *_: [sys.executable, EXAMPLES / file]


def _node(*_: object) -> list[object]:
    return ["node", EXAMPLES / "node" / "classify.js"]


def _shell(file: str, tool: str) -> Callable[..., list[object]]:
    def found(*_: object) -> list[object]:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
        return [EXAMPLES / file]

    return found


# By file: the interface whose address it takes, and what finds or builds the command, in a directory for what it makes.
TABLE: dict[str, tuple[str, Callable[[Path], list[object]]]] = {
    **{file: ("gRPC", _python(file)) for file in PYTHON.values()},
    "node/classify.js": ("gRPC", _node),
    "go/main.go": ("gRPC", build_go),
    "java/src/main/java/Classify.java": ("gRPC", build_java),
    "shell/classify.sh": ("HTTP", _shell("shell/classify.sh", "curl")),
    "shell/infer.sh": ("HTTP", _shell("shell/infer.sh", "curl")),
    "shell/grpcurl.sh": ("gRPC", _shell("shell/grpcurl.sh", "grpcurl")),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(file, marks=[pytest.mark.packages] * file.startswith("node/")) for file in TABLE],
)
def example(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def start(
    collector: tuple, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str, str], subprocess.Popen[str]]]:
    """Starts an example with an address; skips if its runtime is missing."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector[0],
    }
    built: dict[str, list[str]] = {}
    started: list[subprocess.Popen[str]] = []

    def start_one(example: str, address: str) -> subprocess.Popen[str]:
        if example not in built:
            if example.startswith("node/"):
                environment["NODE_PATH"] = str(request.getfixturevalue("node_modules"))
            _, command = TABLE[example]
            built[example] = [str(part) for part in command(tmp_path_factory.mktemp("built"))]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*built[example], address], cwd=ROOT, env=environment, **pipes))
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def run(example: str, addresses: dict[str, str], start: Callable) -> Run:
    """Starts it twice; clients repeat calls for seconds before they give up."""
    port = free_port()
    alone = start(example, f"127.0.0.1:{port}")
    return Run(alone=alone, answered=start(example, addresses[TABLE[example][0]]), port=port)


def _answers(example: str, printed: str) -> dict[str, tuple[str, float]]:
    """Label and confidence of each file that an example printed, each in its own form."""
    if example == "shell/classify.sh":
        images = json.loads(printed)["images"]
        return {f"serving/samples/{image['file']}": (image["name"], image["confidence"]) for image in images}
    if example == "shell/infer.sh":
        (best,) = json.loads(printed)["outputs"][0]["data"]
        confidence, _, label = best.split(":")
        return {"serving/samples/7.png": (label, float(confidence))}
    if example == "shell/grpcurl.sh":
        services, _, answer = printed.partition("{")
        assert "digits.v1.DigitClassifierService" in services.splitlines()
        answer = json.loads("{" + answer)
        rows = zip(answer["labels"], answer["confidences"], strict=True)
        return {f"serving/samples/{digit}.png": (str(label), value) for digit, (label, value) in enumerate(rows)}
    lines = re.findall(r"^(\S+\.png)  (\w+)  (\d+\.\d\d)%$", printed, re.MULTILINE)
    return {path: (name, float(share) / 100) for path, name, share in lines}


def _other_lines(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if ".png  " not in line]


def _assert_traced(trace: str, received: queue.Queue) -> None:
    """Waits for the server's span, which is exported after the client has ended."""
    spans: dict[bytes, tuple[str, str, bytes]] = {}
    lineage: list[tuple[str, str]] = []
    while len(lineage) < 3:
        found = [each for each in spans_of(received.get(timeout=20)[1]) if each[1].trace_id.hex() == trace]
        spans |= {span.span_id: (service, span.name.strip("/"), span.parent_span_id) for service, span in found}
        served = (key for key, (service, name, _) in spans.items() if service != "digits-reader" and "Classify" in name)
        lineage, span_id = [], next(served, b"")
        while span_id in spans:
            service, name, span_id = spans[span_id]
            lineage.append((service, name))
    call = "digits.v1.DigitClassifierService/Classify"
    assert lineage == [("digits-serving", call), ("digits-reader", call), ("digits-reader", "read digits")]


def test_an_example_prints_label_and_confidence_of_each_file(example: str, run: Run, collector: tuple) -> None:
    printed, complaints = run.answered.communicate(timeout=60)
    assert (run.answered.returncode, complaints) == (0, "")
    expected = [7] if example == "shell/infer.sh" else range(10)
    answers = _answers(example, printed)
    assert [*answers] == [f"serving/samples/{digit}.png" for digit in expected]
    assert [label for label, _ in answers.values()] == [str(digit) for digit in expected]
    assert all(0.9 < confidence <= 1 for _, confidence in answers.values())
    if example == PYTHON["stream"]:
        (line,) = _other_lines(printed)
        assert re.match(r"LICENSE  encoded_images\.images\[0\]", line)
    elif example == PYTHON["telemetry"]:
        (line,) = _other_lines(printed)
        _assert_traced(*re.fullmatch(r"trace ([0-9a-f]{32})", line).groups(), collector[1])
    elif not example.startswith("shell/"):
        assert _other_lines(printed) == []


def test_an_example_says_in_one_line_that_no_server_answers(run: Run) -> None:
    printed, complaints = run.alone.communicate(timeout=60)
    assert run.alone.returncode not in {0, None}
    (line,) = complaints.splitlines()
    assert re.search(rf"127\.0\.0\.1(:| port ){run.port}\b", line)
    assert re.search(r"connect", line, re.IGNORECASE)
    assert printed == ""


@contextlib.contextmanager
def _silent_servers() -> Iterator[dict[str, str]]:
    """The addresses of one for gRPC, which takes every call and answers none, and one for HTTP."""
    over = threading.Event()

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.stream_stream_rpc_method_handler(lambda *_: iter([b""] * (not over.wait(60))))

    server = grpc.server(ThreadPoolExecutor(50), handlers=[Handler()])
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listening:
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield {"gRPC": f"127.0.0.1:{port}", "HTTP": f"127.0.0.1:{listening.getsockname()[1]}"}
    over.set()
    server.stop(None).wait()


def test_no_example_waits_for_ever_for_a_server_that_is_silent(start: Callable) -> None:
    """All at once, since each takes as long as its deadline."""
    waiting = {}
    with _silent_servers() as silent:
        for example, (interface, _) in TABLE.items():
            with contextlib.suppress(pytest.skip.Exception):
                waiting[example] = start(example, silent[interface])
        assert len(waiting) >= len(PYTHON)
        for example, process in waiting.items():
            printed, complaints = process.communicate(timeout=30)
            assert process.returncode not in {0, None}, example
            assert printed == "", example
            (line,) = complaints.splitlines()
            assert re.search(r"deadline|timed out|time limit", line, re.IGNORECASE), line


def test_every_file_is_run_and_explained() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "."]
    found = subprocess.run(listed, cwd=EXAMPLES, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {*found} == TABLE.keys() | OTHERS
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for file in TABLE.keys() - {"go/main.go", "java/src/main/java/Classify.java", PYTHON["telemetry"]}:
        assert re.search(rf"`[^`]*\bexamples/{file}`", page), file
    links = set(re.findall(r"\]\(([^)#]+)\)", page))
    assert {*found} - {"README.md"} == links
