"""What the CUDA path does on the host: plans, launches, memory, faults. Runs without a GPU, so answers mean nothing."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from any_network import as_trained
from grpc_health.v1 import health_pb2, health_pb2_grpc

from export.convert import convert
from export.parity import check_parity
from serving.client import CallFailed, Client
from serving.config import EngineConfig
from serving.errors import DeviceLost, InferenceFailed, ProviderUnavailable
from serving.inference.engine import Engine
from serving.inference.sessions import CPU, CUDA
from serving.repository.repository import StoredModel
from serving.score.local import LocalClassifier
from training.architectures import ARCHITECTURES

# Numbers of errors in the CUDA runtime API.
OUT_OF_MEMORY, NO_KERNEL_IMAGE, ILLEGAL_ADDRESS = 2, 209, 700

PLANS = "cudnnBackendCreateDescriptor"
LAUNCHES = ("__cudaLaunchKernel", "cudaLaunchKernel", "cudaLaunchKernelExC", "cudnn*", "cublas*")


def _images(rows: int) -> np.ndarray:
    return np.zeros((rows, 28, 28, 1), np.uint8)


@pytest.fixture
def fault_file(pretended: object, tmp_path: Path) -> Path:
    """Once it exists, the CUDA of every process that has it as PRETENDED_FAULT_FILE fails."""
    return tmp_path / "fault"


def test_a_run_is_one_launch_and_one_synchronisation_whatever_the_sizes_before_it(
    pretended, start_engine: Callable
) -> None:
    engine = start_engine()
    pretended.forget()
    for rows in np.random.default_rng(0).integers(1, 1025, 1000).tolist():
        assert engine.infer(_images(rows)).probabilities.shape == (rows, 10)
    assert pretended.calls(PLANS) == 0
    assert pretended.calls("cudaGraphLaunch") == pretended.calls("cudaStreamSynchronize") == 1000
    assert pretended.calls("cuda*") == 2000
    assert [pretended.calls(name) for name in LAUNCHES] == [0] * len(LAUNCHES)


def test_only_the_thread_with_the_graphs_runs_them(pretended, start_engine: Callable) -> None:
    engine, refused = start_engine(), []

    def run() -> None:
        with pytest.raises(InferenceFailed, match="only in the thread that started it"):
            engine.infer(_images(1))
        refused.append(True)

    other = threading.Thread(target=run)
    other.start()
    other.join()
    assert refused
    assert pretended.calls("cudaStreamBeginCapture") == len(engine.fixed_sizes)


def test_scoring_with_many_threads_captures_graphs_once(pretended, shipped: StoredModel) -> None:
    classifier = LocalClassifier(shipped, provider="cuda")
    assert classifier.uses_cuda
    captures, errors = pretended.calls("cudaStreamBeginCapture"), []

    def score() -> None:
        try:
            classifier.infer(_images(10))
        except InferenceFailed as error:
            errors.append(error)

    threads = [threading.Thread(target=score) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert pretended.calls("cudaStreamBeginCapture") == captures


def test_a_model_is_loaded_while_another_one_runs(pretended, start_engine: Callable) -> None:
    """While a thread captures a graph, CUDA refuses most calls of others that have not said that they may."""
    running, loaded, errors = threading.Event(), threading.Event(), []

    def run() -> None:
        engine = start_engine()
        while not loaded.is_set() and not errors:
            try:
                engine.infer(_images(1))
            except (InferenceFailed, DeviceLost) as error:
                errors.append(error)
            if error := engine.device_error():
                errors.append(error)
            running.set()

    other = threading.Thread(target=run)
    other.start()
    assert running.wait(timeout=30)
    try:
        for _ in range(20):
            start_engine().close()
    finally:
        loaded.set()
        other.join()
    assert errors == []


def test_memory_is_bounded_and_given_back(pretended, start_engine: Callable) -> None:
    before = pretended.used_bytes()
    for _ in range(100):
        engine = start_engine()
        assert engine.batch_rows == 1024
        assert pretended.used_bytes() - before < 256 << 20
        engine.close()
        assert pretended.used_bytes() == before


def test_a_limit_of_memory_makes_batches_smaller(pretended, start_engine: Callable, caplog) -> None:
    before = pretended.used_bytes()
    engine = start_engine(gpu_memory_mb=100)
    assert engine.batch_rows == 512
    assert pretended.used_bytes() - before <= 100 << 20
    assert "CUDA device 0 has too little memory for batches of 1024 images" in caplog.text
    assert engine.infer(_images(700)).logits.shape == (700, 10)
    assert start_engine(gpu_memory_mb=4000, max_batch_rows=4096).batch_rows == 4096


@pytest.mark.parametrize(
    ("functions", "error", "step"),
    [
        ("cudaMalloc", OUT_OF_MEMORY, 1),
        ("cudaHostAlloc", OUT_OF_MEMORY, 5),
        ("cudaMemcpy*", OUT_OF_MEMORY, 1),
        ("__cudaLaunchKernel", NO_KERNEL_IMAGE, 40),
        ("cudnn*", 3, 300),
        ("cublas*", 3, 5),
        ("cudaGraphInstantiate", OUT_OF_MEMORY, 3),
        ("*", ILLEGAL_ADDRESS, 250),
    ],
)
def test_whatever_fails_in_the_start_auto_takes_the_cpu(
    pretended, start_engine: Callable, functions: str, error: int, step: int
) -> None:
    start_engine().close()
    calls = pretended.calls(functions)
    assert calls > 0
    providers = set()
    for after in range(0, calls - 1, step):
        pretended.fail(functions, error, after=after)
        engine = start_engine("auto")
        pretended.fail("", 0)
        providers.add(engine.provider)
        assert np.isfinite(engine.infer(_images(3)).probabilities).all()
    assert CPU in providers
    pretended.fail(functions, error)
    with pytest.raises(ProviderUnavailable, match=r"CUDA (device 0|can't)") as refused:
        start_engine("cuda")
    assert "/onnxruntime_src" not in str(refused.value)


def test_a_lost_gpu_is_told_from_a_failed_batch(pretended, start_engine: Callable) -> None:
    engine = start_engine()
    assert engine.device_error() is None
    pretended.fail("cudaGraphLaunch", OUT_OF_MEMORY)
    with pytest.raises(InferenceFailed):
        engine.infer(_images(1))
    pretended.fail("*", ILLEGAL_ADDRESS)
    assert "CUDA error 700" in engine.device_error()
    with pytest.raises(DeviceLost, match="the GPU has failed"):
        engine.infer(_images(1))


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "under calls"])
def test_a_server_that_loses_its_gpu_ends_and_says_so(
    start_server: Callable, fault_file: Path, digits: tuple, *, is_idle: bool
) -> None:
    with start_server("--provider", "cuda", env=os.environ | {"PRETENDED_FAULT_FILE": str(fault_file)}) as server:
        assert server.announcement.endswith(f"with {CUDA}\n")
        with Client(server.address) as client:
            assert len(client.classify(digits[0][:5]).labels) == 5
            fault_file.write_text(str(ILLEGAL_ADDRESS))
            if not is_idle:
                with pytest.raises(CallFailed) as refused:
                    client.classify(digits[0][:5], timeout_s=20)
                assert refused.value.code == grpc.StatusCode.UNAVAILABLE
                assert "cuda" not in str(refused.value).lower()
        assert server.process.wait(timeout=30) == 1
        assert not _is_serving(server.address)
        assert "watchdog: the GPU has failed: pretended error (CUDA error 700); exiting" in server.stop()[1]


def test_a_worker_that_loses_its_gpu_is_replaced(start_server: Callable, fault_file: Path, digits: tuple) -> None:
    env = os.environ | {"PRETENDED_FAULT_FILE": str(fault_file), "PRETENDED_DEVICES": "2"}
    with start_server("--provider", "cuda", "--device", "0,1", env=env) as server:
        fault_file.write_text(str(ILLEGAL_ADDRESS))
        log = []
        for line in server.process.stderr:
            log.append(line)
            if "restarting in" in line:
                fault_file.unlink(missing_ok=True)
            if sum("running on CUDA device" in each for each in log) == 4:
                break
        devices = re.findall(r"running on CUDA device (\d)", "".join(log))
        assert sorted(devices[:2]) == sorted(devices[2:]) == ["0", "1"]
        with Client(server.address) as client:
            client.wait_until_serving(timeout_s=30)
            assert len(client.classify(digits[0][:5], timeout_s=30).labels) == 5
        assert server.stop()[0] == 0


def test_a_device_that_is_not_there_is_named(pretended, command: Callable) -> None:
    done = command("digits-serve", "--port", "0", "--provider", "cuda", "--device", "1")
    assert done.returncode == 1
    assert "there is no CUDA device 1: the NVIDIA driver finds 1, counted from 0" in done.stderr
    assert done.stdout == ""


def test_the_doctor_prints_json_only(pretended, command: Callable) -> None:
    done = command("digits-doctor", "--json", "--provider", "cuda", "--port", "0")
    findings = json.loads(done.stdout)["findings"]
    assert any(found["text"].startswith("found the driver, device 0") for found in findings)
    (agreement,) = (found for found in findings if found["subject"] == "agreement")
    assert "in batches of 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024" in agreement["text"]
    assert "\x1b[" not in done.stderr


def test_without_libraries_auto_takes_the_cpu_and_nothing_else_is_printed(
    pretended, command: Callable, start_server: Callable, tmp_path: Path
) -> None:
    for library in Path(os.environ["LD_LIBRARY_PATH"]).glob("*.so*"):
        if not library.name.startswith(("libcudnn", "libcurand")):
            (tmp_path / library.name).symlink_to(library)
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    findings = json.loads(command("digits-doctor", "--json", "--port", "0", env=env).stdout)["findings"]
    assert any("libraries are missing: libcurand.so.10, libcudnn.so.9" in found["text"] for found in findings)
    with start_server("--provider", "auto", env=env) as server:
        assert server.announcement.endswith(f"with {CPU}\n")


def test_tensorflow_does_not_stand_in_the_way(pretended, start_engine: Callable) -> None:
    """It exports functions of CUDA for another release, and the export has it in the same process."""
    assert "tensorflow" in sys.modules
    assert start_engine("auto").provider == CUDA


def test_the_gate_compares_every_bucket(pretended, start_engine: Callable, digits: tuple) -> None:
    """Since each has plans of its own: where no other plan exists, ONNX Runtime takes tensor cores for single ones."""
    engine: Engine = start_engine(max_batch_rows=64)
    zeros = np.zeros((200, 10), np.float32)
    reference = SimpleNamespace(labels=tuple("0123456789"), predict=lambda _: (zeros, zeros))
    report = check_parity(reference, engine, digits[0][:200], None)
    assert report.figures.batch_sizes == (1, 2, 4, 8, 16, 32, 64, 200)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_of_every_network_runs_on_cuda(pretended, shipped: StoredModel, architecture: str) -> None:
    shape = ARCHITECTURES[architecture].image_shape
    network = as_trained(ARCHITECTURES[architecture].build(shape, 10))
    content = convert(network, model_name="any")
    engine = Engine(content, image_shape=shape, classes=10, config=EngineConfig(provider="cuda"))
    before = pretended.used_bytes()
    engine.start()
    assert engine.provider == CUDA
    assert pretended.used_bytes() - before < 1 << 30
    pretended.forget()
    for rows in (1, 5, 1):
        engine.infer(np.zeros((rows, *shape), np.uint8))
    assert pretended.calls("cudaGraphLaunch") == 3
    assert pretended.calls(PLANS) == 0
    engine.close()
