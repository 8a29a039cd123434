"""Several workers on one port: they share the work, die one by one, and callers do not notice."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serving.client import CallFailed, Client, Credentials
from serving.config import SAME_SIGNAL_S

Start = Callable[..., contextlib.AbstractContextManager]


def _workers(server) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.Error):  # it may have just died
            if "serving.server.process.worker" in child.cmdline():
                found.append(child)
    return found


def _eventually(what: Callable[[], object], limit_s: float = 20) -> object:
    """Polls until the answer is true, since nothing signals when the children of another process change."""
    ends = time.monotonic() + limit_s
    while not (answer := what()):
        assert time.monotonic() < ends, "the condition did not become true in time"
        time.sleep(0.02)
    return answer


def _metrics(url: str) -> dict[str, str]:
    return dict(
        re.findall(r"^((?:digits|process)_\S+) (\S+)$", urllib.request.urlopen(url).read().decode(), re.MULTILINE)
    )


def _statistics(address: str) -> inference_pb2.ModelStatistics:
    with grpc.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ModelStatistics(inference_pb2.ModelStatisticsRequest(), timeout=20).model_stats[0]


class Load:
    """Callers with one connection each that check every answer; every other request has hundreds of kilobytes."""

    def __init__(self, address: str, images: np.ndarray, callers: int = 6) -> None:
        self.failures: list[object] = []
        self.answered = threading.Semaphore(0)
        self._images, self._address, self._end = images, address, threading.Event()
        with Client(address) as client:
            self._expected = client.classify(images).labels
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(callers)]

    def _call(self, number: int) -> None:
        with Client(self._address) as client:
            for count in itertools.takewhile(lambda _: not self._end.is_set(), itertools.count()):
                rows = slice(number, number + (450 if count % 2 else 40))
                try:
                    if not np.array_equal(
                        client.classify(self._images[rows], timeout_s=20).labels, self._expected[rows]
                    ):
                        self.failures.append("an answer to another call")
                except CallFailed as error:
                    self.failures.append(error)
                self.answered.release()

    def wait_for(self, calls: int) -> None:
        for _ in range(calls):
            assert self.answered.acquire(timeout=30)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.wait_for(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def pair(start_server: Start) -> Iterator:
    with start_server("--workers", "2", "--provider", "cpu", "--watchdog-s", "3") as server:
        yield server
        code, stderr = server.stop()
        assert code == 0, stderr
        assert "Traceback" not in stderr


def test_workers_share_the_connections(start_server: Start, digits: tuple) -> None:
    """Their metrics are added up, and so are their statistics."""
    with start_server("--workers", "2", "--metrics-port", "0") as server:
        assert server.announcement.endswith("CPUExecutionProvider, 2 workers\n")
        port = re.search(r"metrics on (\S+)", server.process.stderr.readline())[1]
        before = {worker.pid: worker.cpu_times().user for worker in _workers(server)}
        calls, busy = 0, set()
        while len(busy) < 2:  # the kernel chooses a worker at random for each connection, and each client has its own
            assert calls < 100
            calls += 1
            with Client(server.address) as client:
                assert len(client.classify(digits[0]).labels) == 500
            busy = {worker.pid for worker in _workers(server) if worker.cpu_times().user > before[worker.pid]}
        resident = sum(each.memory_info().rss for each in (psutil.Process(server.process.pid), *_workers(server)))
        values = _metrics(port)
        counted = [_statistics(server.address) for _ in range(4)]  # each a connection of its own
        victim = _workers(server)[0]
        victim.kill()
        _eventually(
            lambda: victim.pid not in {worker.pid for worker in _workers(server)} and len(_workers(server)) == 2
        )
        with Client(server.address) as client:
            client.wait_until_serving(20)
        after = _metrics(port)
        directory = Path(_workers(server)[0].environ()["PROMETHEUS_MULTIPROC_DIR"])
        assert not list(directory.glob(f"gauge_live*_{victim.pid}.db"))  # a dead worker's queue length
        assert server.stop()[0] == 0
    method, version = 'method="/digits.v1.DigitClassifierService/Classify"', 'model="mnist_convnet",version="1"'
    assert {(each.inference_count, each.inference_stats.success.count) for each in counted} == {(500 * calls, calls)}
    assert counted[0].execution_count == sum(each.compute_infer.count for each in counted[0].batch_stats)
    assert float(values['digits_images_total{model="mnist_convnet",version="1"}']) == 500 * calls
    assert float(values[f'digits_requests_total{{code="OK",{method},{version}}}']) == calls
    assert float(values[f"digits_request_duration_seconds_count{{{method},{version}}}"]) == calls
    assert float(values[f"digits_queue_duration_seconds_count{{{version}}}"]) == calls
    assert float(values[f"digits_batch_rows_sum{{{version}}}"]) == 500 * calls
    assert float(values[f"digits_inference_duration_seconds_sum{{{version}}}"]) > 0
    assert float(values[f"digits_queue_rows{{{version}}}"]) == 0
    assert float(values['digits_rejected_total{reason="queue_full"}']) == 0
    (model,) = [name for name in values if name.startswith("digits_model_info")]
    assert 'provider="CPUExecutionProvider"' in model
    images = 'digits_images_total{model="mnist_convnet",version="1"}'
    assert after[images] == values[images]  # a dead worker's counts remain
    assert 0.9 < float(values["process_resident_memory_bytes"]) / resident < 1.1
    assert float(values["process_open_fds"]) < float(values["process_max_fds"])
    assert float(after["process_cpu_seconds_total"]) > float(values["process_cpu_seconds_total"])  # with the dead one's
    assert after["process_start_time_seconds"] == values["process_start_time_seconds"]
    assert not [name for name in values if "_created" in name]
    assert float(values["digits_worker_restarts_total"]) == 0
    assert float(after["digits_worker_restarts_total"]) == 1
    assert not directory.exists()


def test_a_worker_that_is_killed_under_load_is_replaced_and_no_caller_notices(pair, digits: tuple) -> None:
    with Load(pair.address, digits[0]) as load:
        for _ in range(2):
            victim = _workers(pair)[0]
            victim.kill()
            victim.wait(20)
            _eventually(lambda: len(_workers(pair)) == 2)
            load.wait_for(100)
    assert load.failures == []


def test_a_call_of_a_killed_worker_fails_with_unavailable_alone(start_server: Start, digits: tuple) -> None:
    """As seen by clients without retries. Clients of the other worker lose no call."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    request = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=digits[0][:1].tobytes(), count=1))
    with start_server("--workers", "2") as server:
        channels = [grpc.insecure_channel(server.address, options=options) for _ in range(12)]
        stubs = [digits_pb2_grpc.DigitClassifierServiceStub(channel) for channel in channels]
        for stub in stubs:
            stub.Classify(request, timeout=20)
        victim = _workers(server)[0]
        theirs = sum(c.status == psutil.CONN_ESTABLISHED for c in victim.net_connections())
        assert 0 < theirs < 12
        victim.kill()
        victim.wait(20)
        codes = []
        for stub in stubs:
            try:
                stub.Classify(request, timeout=20)
            except grpc.RpcError as error:
                codes.append(error.code())
        assert set(codes) <= {grpc.StatusCode.UNAVAILABLE}
        assert len(codes) <= theirs
        for stub in stubs:
            assert list(stub.Classify(request, timeout=20, wait_for_ready=True).labels) == [digits[1][0]]
        for channel in channels:
            channel.close()
        assert server.stop()[0] == 0


def test_a_rolling_restart_fails_no_call(pair, digits: tuple) -> None:
    before = {worker.pid for worker in _workers(pair)}
    with Load(pair.address, digits[0]) as load:
        pair.process.send_signal(signal.SIGHUP)
        _eventually(lambda: len(_workers(pair)) == 2 and not before & {worker.pid for worker in _workers(pair)})
        load.wait_for(100)
    assert load.failures == []


@pytest.mark.parametrize("delay_s", [0.16, 0.18, 0.2])
def test_sigterm_during_a_rolling_restart_ends_cleanly(start_server: Start, delay_s: float) -> None:
    """A worker that is stopping already gets no second signal, which would end it like a crash."""
    with start_server("--workers", "2", "--http-port", "0", "--metrics-port", "0") as server:
        server.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            while "has replaced worker" not in (line := server.process.stderr.readline()):
                assert line, "the server ended"
        time.sleep(delay_s)  # about when the old worker has drained and is ending
        code, stderr = server.stop()
        assert code == 0, stderr


def test_sigterm_under_load_loses_no_answer(start_server: Start, digits: tuple) -> None:
    with start_server("--workers", "2") as server, Load(server.address, digits[0]) as load:
        server.process.send_signal(signal.SIGTERM)
        code, stderr = server.stop()
        assert code == 0, stderr
        _eventually(lambda: load.failures)
    assert {failure.code.name for failure in load.failures} == {"UNAVAILABLE"}


def test_a_worker_that_hangs_is_replaced(pair, digits: tuple) -> None:
    victim = _workers(pair)[0]
    victim.suspend()
    victim.wait(30)
    _eventually(lambda: len(_workers(pair)) == 2)
    with Client(pair.address) as client:
        assert np.array_equal(client.classify(digits[0][:10], timeout_s=20).labels, digits[1][:10])


@pytest.mark.parametrize("count", [1, 64], ids=["on the event loop", "on the engine's thread"])
def test_an_engine_that_hangs_ends_its_process(count: int) -> None:
    """The watchdog of a process without a supervisor; whatever restarts the process restarts the service."""
    script = """
import asyncio, sys, threading, logging
from serving.client import Client
from serving.config import BatcherConfig, EngineConfig, ServerConfig
from serving.server.process.lifecycle import serve
from serving.server.process.server import Server
logging.basicConfig()
import numpy as np
async def main():
    async def ready(server):
        server.deployments.find()._engine.infer = lambda images: threading.Event().wait()
        print(server.address, flush=True)
    config = ServerConfig(
        port=0, watchdog_s=1, engine=EngineConfig(provider="cpu"), batcher=BatcherConfig(inline_s=0.001)
    )
    await serve(Server(config), config, ready=ready, stopping=asyncio.Event())
asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        channel = grpc.insecure_channel(process.stdout.readline().strip(), options=[("grpc.enable_retries", 0)])
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        images = digits_pb2.RawImages(pixels=bytes(784 * count), count=count)
        with pytest.raises(grpc.RpcError) as failed:
            stub.Classify(digits_pb2.ClassifyRequest(raw_images=images), timeout=20)
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        _, stderr = process.communicate(timeout=20)
        channel.close()
    finally:
        process.kill()
    assert process.returncode == 1
    assert "watchdog" in stderr


def test_workers_that_can_not_start_end_the_server_with_the_reason(start_server: Start, tmp_path: Path) -> None:
    """First a reload that must keep the old workers, then a death whose replacements all fail."""
    tokens = tmp_path / "tokens"
    tokens.write_text("x" * 32)
    with start_server("--workers", "2", "--token-file", str(tokens)) as server:
        tokens.unlink()
        before = {worker.pid for worker in _workers(server)}
        server.process.send_signal(signal.SIGHUP)
        lines = []
        while sum("keeping worker" in line for line in lines) < 2:
            lines.append(server.process.stderr.readline())
            assert lines[-1], lines
        assert {worker.pid for worker in _workers(server)} == before
        with Client(server.address, credentials=Credentials(token="x" * 32)) as client:
            assert client.get_model().model_name == "mnist_convnet"
        _workers(server)[0].kill()
        died = time.monotonic()
        assert server.process.wait(30) == 1
        took, (_, stderr) = time.monotonic() - died, server.stop()
        pauses = [float(found) for found in re.findall(r"restarting in (\S+) s", stderr)]
        assert len(pauses) == 3
        assert pauses[1] < pauses[2]
        assert took >= sum(pauses)
    last = stderr.splitlines()[-1]
    assert last.startswith(f"Error: workers failed to start 3 times in a row: can't read {tokens}")
    assert "Traceback" not in stderr


@pytest.mark.parametrize("options", [("--port", "PORT"), ("--metrics-port", "PORT", "--port", "0")])
def test_a_port_in_use_is_one_line(command: Callable, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("digits-serve", "--workers", "2", *(port if o == "PORT" else o for o in options))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: can't ")
    assert f"127.0.0.1:{port}: the port is in use" in done.stderr


def test_a_port_of_other_workers_is_in_use(pair, command: Callable) -> None:
    """Workers share their port with each other, not with a second server."""
    for workers in ("1", "2"):
        done = command("digits-serve", "--port", pair.address.split(":")[1], "--workers", workers)
        assert (done.returncode, "the port is in use" in done.stderr) == (1, True)


def test_a_model_that_can_not_be_served_is_one_line(command: Callable, tmp_path: Path) -> None:
    done = command("digits-serve", "--workers", "2", "--port", "0", "--repository", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"Error: {tmp_path}")
    assert "Traceback" not in done.stderr


def test_workers_end_with_their_supervisor(start_server: Start) -> None:
    with start_server("--workers", "2") as server:
        workers = _workers(server)
        server.process.kill()
        gone, alive = psutil.wait_procs(workers, timeout=20)
        assert (len(gone), alive) == (2, [])


def test_a_second_signal_ends_all_at_once(start_server: Start) -> None:
    with start_server("--workers", "2", "--drain-pause-s", "60") as server:
        workers = _workers(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(2 * SAME_SIGNAL_S)  # a signal that comes sooner counts as the first one repeated
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 1
        assert psutil.wait_procs(workers, timeout=20)[1] == []


def _serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20).status
    return status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("workers", ["1", "2"])
def test_calls_are_taken_while_load_balancers_notice_the_end(start_server: Start, digits: tuple, workers: str) -> None:
    with start_server("--workers", workers, "--drain-pause-s", "2") as server:
        server.process.send_signal(signal.SIGTERM)
        _eventually(lambda: not _serving(server.address))
        with Client(server.address) as client:
            assert np.array_equal(client.classify(digits[0][:10]).labels, digits[1][:10])
        assert server.process.wait(30) == 0


def test_logs_can_be_objects(start_server: Start) -> None:
    with start_server("--workers", "2", "--log-format", "json") as server:
        server.process.send_signal(signal.SIGHUP)
        _eventually(lambda: len(_workers(server)) == 2)
        code, stderr = server.stop()
    assert code == 0
    entries = [json.loads(line) for line in stderr.splitlines()]
    assert [entry for entry in entries if entry["level"] != "INFO"] == []
    assert all(entry.keys() >= {"time", "logger", "process", "message"} for entry in entries)


def test_sighup_does_not_end_a_process_without_workers(start_server: Start, digits: tuple) -> None:
    with start_server() as server:
        server.process.send_signal(signal.SIGHUP)
        assert "SIGHUP" in server.process.stderr.readline() + server.process.stderr.readline()
        with Client(server.address) as client:
            assert np.array_equal(client.classify(digits[0][:10]).labels, digits[1][:10])
        assert server.stop()[0] == 0


def test_as_a_container_s_first_process_it_leaves_no_zombies(tmp_path: Path) -> None:
    """In its own process namespace, the supervisor is process 1 and inherits an orphan."""
    unshare = shutil.which("unshare")
    if not unshare or os.geteuid() != 0:
        pytest.skip("needs unshare and root")
    inner = [Path(sys.executable).parent / "digits-serve", "--workers", "2", "--port", "0"]
    process = subprocess.Popen(
        [unshare, "--pid", "--fork", "--kill-child", "--mount-proc", *inner],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if "serving" not in process.stdout.readline():
            pytest.skip(f"no process namespaces here: {process.communicate(timeout=30)[1]}")
        (first,) = psutil.Process(process.pid).children()
        # Enters the namespace and leaves a child there, which process 1 inherits.
        subprocess.run(
            ["nsenter", f"--target={first.pid}", "--pid", "--mount", "sh", "-c", "(true & exec true) & exit"],
            check=True,
        )
        _eventually(lambda: len(first.children()) == 2)
        first.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate(timeout=30)
