"""Versions change while clients call: they notice it only by the version that each answer names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from keys import make_key_pair
from versions import constant_model, damage, manifest_of, publish

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from protos.inference import inference_pb2, inference_pb2_grpc
from serving.client import CallFailed, Client
from serving.client.retry import channel_options
from serving.errors import ModelNotFound
from serving.repository.labels import Canary, Labels
from serving.repository.repository import Repository
from serving.repository.signature import SigningKey
from serving.rollout.rollout import Rollout
from serving.rollout.router import Router

Start = Callable[..., contextlib.AbstractContextManager]

WATCH = ("--watch", "--watch-interval-s", "0.05")
IMAGE = np.zeros((1, 28, 28, 1), np.uint8).tobytes()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One version of `net`, which labels every image 1; version n will label every image n."""
    made = Repository(tmp_path / "models")
    publish(made, 1)
    return made


@dataclass(frozen=True)
class Seen:
    """One answer."""

    began: float
    ended: float
    version: int
    label: int


class Callers:
    """Callers that record every answer. Each has its own connection, and half of them use each protocol."""

    def __init__(self, address: str, count: int) -> None:
        self.answers: list[Seen] = []
        self.failures: list[grpc.RpcError] = []
        self._address, self._count = address, count
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._stop = threading.Event()

    def __enter__(self) -> Callers:
        self._thread.start()
        self.wait_for(lambda seen: True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def wait_for(self, wanted: Callable[[Seen], bool], count: int = 1) -> None:
        """Returns once `count` further answers are as wanted."""
        place, ends = len(self.answers), time.monotonic() + 60
        while count:
            if place == len(self.answers):
                assert time.monotonic() < ends, (self.answers[-1:], self.failures[-1:])
                time.sleep(0.005)
                continue
            count -= wanted(self.answers[place])
            place += 1

    def wait_for_version(self, version: int) -> None:
        self.wait_for(lambda seen: seen.version == version, count=20)

    async def _run(self) -> None:
        await asyncio.gather(*(self._call(self._digits if n % 2 else self._oip) for n in range(self._count)))

    async def _call(self, protocol: Callable) -> None:
        async with grpc.aio.insecure_channel(self._address, channel_options(1 << 20)) as channel:
            ask = protocol(channel)
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    version, label = await ask()
                except grpc.RpcError as error:
                    self.failures.append(error)
                else:
                    self.answers.append(Seen(began, time.monotonic(), version, label))

    @staticmethod
    def _digits(channel: grpc.aio.Channel) -> Callable:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        request = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=IMAGE, count=1))

        async def ask() -> tuple[int, int]:
            answer = await stub.Classify(request, timeout=20)
            return answer.model_version, answer.labels[0]

        return ask

    @staticmethod
    def _oip(channel: grpc.aio.Channel) -> Callable:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        tensor = inference_pb2.ModelInferRequest.InferInputTensor
        request = inference_pb2.ModelInferRequest(
            model_name="net",
            inputs=[tensor(name="images", datatype="UINT8", shape=[1, 28, 28, 1])],
            raw_input_contents=[IMAGE],
        )

        async def ask() -> tuple[int, int]:
            answer = await stub.ModelInfer(request, timeout=20)
            logits = np.frombuffer(answer.raw_output_contents[0], np.float32)
            return int(answer.model_version), int(logits.argmax())

        return ask


def _backwards(answers: list[Seen]) -> list[tuple[Seen, Seen]]:
    """Pairs of an answer and one of an older version whose call began after the first one had ended."""
    found, newest = [], None
    ended = sorted(answers, key=lambda seen: seen.ended)
    place = 0
    for seen in sorted(answers, key=lambda seen: seen.began):
        while ended[place].ended < seen.began:
            if newest is None or ended[place].version > newest.version:
                newest = ended[place]
            place += 1
        if newest is not None and seen.version < newest.version:
            found.append((newest, seen))
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_ten_versions_under_traffic(start_server: Start, repository: Repository, workers: int) -> None:
    """One is damaged and one is not a model; then a canary and a rollback. No call fails or names a wrong version."""
    with (
        start_server("--workers", str(workers), "--repository", str(repository.root), *WATCH) as server,
        Callers(server.address, 50) as callers,
    ):
        for version in range(2, 11):
            content = constant_model(version % 10)
            if version == 4:
                content = content.replace(b"Softmax", b"Softmin")
            manifest = manifest_of(content)
            if version == 7:
                content = content[:-1] + bytes([content[-1] ^ 1])
            assert repository.publish(content, manifest) == version
            if version not in (4, 7):
                callers.wait_for_version(version)
        upwards = list(callers.answers)
        repository.write_labels("net", Labels(stable=9, canary=Canary(version=10, share=0.1)))
        callers.wait_for_version(9)
        place = len(callers.answers)
        callers.wait_for(lambda seen: True, count=3000)
        trial = Counter(seen.version for seen in callers.answers[place : place + 3000])
        repository.write_labels("net", Labels(stable=8))
        callers.wait_for_version(8)
        place = len(callers.answers)
        callers.wait_for(lambda seen: True, count=200)
        after = {seen.version for seen in callers.answers[place + 100 :]}
    assert not callers.failures, callers.failures[0]
    assert [seen for seen in callers.answers if seen.label != seen.version % 10] == []
    assert {seen.version for seen in upwards} == {1, 2, 3, 5, 6, 8, 9, 10}
    assert _backwards(upwards) == []
    assert trial.keys() == {9, 10}
    assert 0.06 < trial[10] / trial.total() < 0.15  # seven standard deviations to either side
    assert after == {8}


def test_a_refused_version_is_reported_everywhere(start_server: Start, repository: Repository) -> None:
    with start_server("--repository", str(repository.root), "--metrics-port", "0") as server:
        metrics = _metrics_url(server)
        publish(repository, 2)
        damage(repository, 2)
        server.process.send_signal(signal.SIGHUP)
        line = _read_until(server, "not served")
        assert re.search(r"net version 2: net/2/model\.onnx: sha256 is \S+ but the manifest says", line)
        with Client(server.address) as client:
            told = {each.version: each for each in _versions_when(client, 2)}
        assert told[1].label == "stable"
        assert told[1].traffic_share == 1
        assert "sha256" in told[2].refused_because
        assert str(repository.root) not in told[2].refused_because
        with grpc.insecure_channel(server.address) as channel:
            index = inference_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
                inference_pb2.RepositoryIndexRequest()
            )
        assert [(each.version, each.state) for each in index.models] == [("1", "READY"), ("2", "UNAVAILABLE")]
        assert index.models[1].reason == told[2].refused_because
        shown = urllib.request.urlopen(metrics).read().decode()
        assert 'digits_model_refused{model="net",version="2"} 1.0' in shown


def test_only_what_a_trusted_key_signed_is_served(start_server: Start, repository: Repository, tmp_path: Path) -> None:
    """Everything else is refused with the reason, while the version before goes on answering."""
    ours, theirs = make_key_pair(tmp_path, "ours"), make_key_pair(tmp_path, "theirs")
    by_us = Repository(repository.root, signing_key=SigningKey.read(ours.private))
    by_them = Repository(repository.root, signing_key=SigningKey.read(theirs.private))
    repository.sign("net", 1, SigningKey.read(ours.private))
    options = ("--repository", str(repository.root), "--trusted-key", str(ours.public), "--metrics-port", "0", *WATCH)
    with start_server(*options) as server, Client(server.address) as client:
        metrics = _metrics_url(server)

        def answering() -> int:
            return client.classify(np.zeros((1, 28, 28, 1), np.uint8)).model_version

        publish(repository, 2)
        refused = {2: "model.sig: no such file, and only signed versions are served here"}
        assert refused[2] in _read_until(server, "not served: net version 2: net/2/")
        publish(by_them, 3)
        refused[3] = "model.sig: not made by a trusted key, or changed since"
        assert refused[3] in _read_until(server, "not served: net version 3: net/3/")
        for version, change in ((4, b" "), (5, None)):
            shutil.copytree(repository.root / "net" / "1", made := tmp_path / "made")
            file = made / ("manifest.json" if change else "more.json")
            file.write_bytes(file.read_bytes() + change if change else b"")
            made.rename(repository.root / "net" / str(version))
            refused[version] = f"{file.name}: was {'changed' if change else 'added'} after the version was signed"
            assert refused[version] in _read_until(server, f"not served: net version {version}: net/{version}/")
        assert answering() == 1
        publish(by_us, 6)
        _read_until(server, "serving net version 6 from now on")
        assert answering() == 6
        (repository.root / "net" / "6" / "late").touch()
        refused[6] = "late: was added after the version was signed. What was read before is still served"
        assert refused[6] in _read_until(server, "not served: net version 6: net/6/")
        assert answering() == 6
        expected = {version: f"net/{version}/{reason}" for version, reason in refused.items()}
        reasons, ends = {}, time.monotonic() + 20
        with grpc.insecure_channel(server.address) as channel:
            while reasons != expected:  # it is logged a moment before
                assert time.monotonic() < ends, reasons
                index = inference_pb2_grpc.GRPCInferenceServiceStub(channel).RepositoryIndex(
                    inference_pb2.RepositoryIndexRequest()
                )
                reasons = {int(each.version): each.reason for each in index.models if each.reason}
        shown = urllib.request.urlopen(metrics).read().decode()
        assert set(re.findall(r'digits_model_refused\{model="net",version="(\d)"\} 1\.0', shown)) == set("23456")


@pytest.mark.parametrize(
    ("key", "said"),
    [("theirs.pub", "net/1/model.sig: no such file, and only signed"), ("absent.pub", "No such file"), (".", "")],
)
def test_a_server_that_may_serve_nothing_does_not_start(
    command: Callable, repository: Repository, tmp_path: Path, key: str, said: str
) -> None:
    make_key_pair(tmp_path, "theirs")
    done = command("digits-serve", "--port", "0", "--repository", repository.root, "--trusted-key", tmp_path / key)
    assert done.returncode == (1 if said else 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_only_the_engine_can_refuse(start_server: Start, repository: Repository) -> None:
    """Its digest is right, but the file is not a model; the library's error text stays in the log."""
    content = constant_model(2)
    broken = content.replace(b"Softmax", b"Softmin")
    assert broken != content
    with start_server("--workers", "2", "--repository", str(repository.root), *WATCH) as server:
        repository.publish(broken, manifest_of(broken))
        assert "Softmin" in _read_until(server, "not served: net version 2")
        with Client(server.address) as client:
            told = _versions_when(client, 2)[1].refused_because
            assert told == "model.onnx: ONNX Runtime can't load it"
            assert client.classify(np.zeros((1, 28, 28, 1), np.uint8)).model_version == 1


def test_a_worker_that_dies_is_replaced_by_one_that_serves_the_same(
    start_server: Start, repository: Repository, tmp_path: Path
) -> None:
    """Even if the repository is gone by then."""
    with start_server("--workers", "2", "--repository", str(repository.root), *WATCH) as server:
        with Callers(server.address, 4) as callers:
            publish(repository, 2)
            callers.wait_for_version(2)
            repository.root.rename(tmp_path / "elsewhere")
            _read_until(server, "the served versions stay the same")
            workers = [child for child in psutil.Process(server.process.pid).children() if child.is_running()]
            for worker in workers:
                worker.kill()
                _read_until(server, "restarting in")
            callers.wait_for_version(2)
            (tmp_path / "elsewhere").rename(repository.root)
            publish(repository, 3)
            callers.wait_for_version(3)
        code, stderr = server.stop()
    assert _backwards(callers.answers) == []
    assert code == 0, stderr


def test_replacement_workers_report_what_they_serve_in_the_metrics(start_server: Start, repository: Repository) -> None:
    publish(repository, 2)
    damage(repository, 2)
    with start_server("--workers", "2", "--repository", str(repository.root), "--metrics-port", "0") as server:
        metrics = _metrics_url(server)
        first = psutil.Process(server.process.pid).children()
        server.process.send_signal(signal.SIGHUP)
        for _ in first:
            _read_until(server, "has replaced")
        psutil.wait_procs(first, timeout=30)
        shown = urllib.request.urlopen(metrics).read().decode()
        assert re.search(r'digits_model_info\{model="net",.*version="1"\} 1\.0', shown)
        assert 'digits_model_refused{model="net",version="2"} 1.0' in shown


def test_callers_name_versions_and_labels(start_server: Start, repository: Repository) -> None:
    for label in (2, 3, 4):
        publish(repository, label)
    repository.write_labels("net", Labels(stable=2, canary=Canary(version=3, share=1)))
    with start_server("--repository", str(repository.root), "--extra-versions", "1") as server:
        assert "serving net version 2 (canary 3, 100%) on " in server.announcement
        with grpc.insecure_channel(server.address) as channel:
            stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
            oip = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
            raw = digits_pb2.RawImages(pixels=IMAGE, count=1)

            def answered(**choice: object) -> int:
                return stub.Classify(digits_pb2.ClassifyRequest(raw_images=raw, **choice)).model_version

            assert answered() == 3
            assert stub.GetModel(digits_pb2.GetModelRequest()).model_version == 2  # never the canary
            assert (
                not oip.ModelStatistics(inference_pb2.ModelStatisticsRequest(name="net")).model_stats[0].inference_count
            )
            repository.write_labels("net", Labels(stable=2, canary=Canary(version=3, share=0)))
            server.process.send_signal(signal.SIGHUP)
            _read_until(server, "(canary 3, 0%) from now on")
            assert {answered() for _ in range(50)} == {2}
            assert answered(model_label="canary") == 3
            assert answered(model_label="stable") == 2
            assert answered(model_version=4) == 4
            assert oip.ModelMetadata(inference_pb2.ModelMetadataRequest(name="net", version="canary")).name == "net"
            for choice, code, said in (
                ({"model_version": 1}, grpc.StatusCode.NOT_FOUND, "no version 1 of 'net' is served here, only 2, 3, 4"),
                ({"model_label": "best"}, grpc.StatusCode.NOT_FOUND, "only stable and canary"),
                ({"model_label": "canary", "model_version": 3}, grpc.StatusCode.INVALID_ARGUMENT, "model_label"),
                ({"model_name": "other"}, grpc.StatusCode.NOT_FOUND, "only 'net'"),
            ):
                with pytest.raises(grpc.RpcError) as failure:
                    answered(**choice)
                assert failure.value.code() is code
                assert said in failure.value.details()


def test_a_batch_ends_with_the_version_that_it_began_with(start_server: Start, repository: Repository) -> None:
    """Its later requests name that version, which is no longer current; a while later it is unloaded."""
    options = ("--repository", str(repository.root), "--linger-s", "3", *WATCH)
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        request = digits_pb2.ClassifyRequest(raw_images=digits_pb2.RawImages(pixels=IMAGE, count=1), model_version=1)
        publish(repository, 2)
        _read_until(server, "serving net version 2 from now on")
        assert stub.Classify(request).labels == [1]
        _read_until(server, "net version 1 is unloaded")
        with pytest.raises(grpc.RpcError) as failure:
            stub.Classify(request)
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_several_models_side_by_side(start_server: Start, repository: Repository) -> None:
    publish(repository, 4, name="small", side=8, classes=5)
    image = np.zeros((2, 28, 28, 1), np.uint8)
    with start_server("--repository", str(repository.root)) as server:
        assert "serving net version 1, small version 1 on " in server.announcement
        with Client(server.address) as nobody, Client(server.address, model_name="small") as small:
            with pytest.raises(CallFailed, match="several models are served here; name one of 'net', 'small'"):
                nobody.classify(image)
            assert small.classify(image[:, :8, :8]).labels.tolist() == [4, 4]
    with (
        start_server("--repository", str(repository.root), "--model", "small", "--model", "net") as server,
        Client(server.address) as client,
        Client(server.address, model_name="net") as net,
    ):
        assert client.get_model().model_name == "small"
        assert net.classify(image).labels.tolist() == [1, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_load_and_unload_if_they_may(start_server: Start, repository: Repository, workers: int) -> None:
    publish(repository, 4, name="other")
    options = ("--workers", str(workers), "--repository", str(repository.root), "--model", "net", "--model", "other")
    load, unload = inference_pb2.RepositoryModelLoadRequest, inference_pb2.RepositoryModelUnloadRequest
    with start_server(*options, "--model-control") as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)

        def served() -> list[tuple[str, str]]:
            return [
                (each.name, each.version)
                for each in stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest()).models
            ]

        dependents = {"unload_dependents": inference_pb2.ModelRepositoryParameter(bool_param=False)}
        stub.RepositoryModelUnload(unload(model_name="other", parameters=dependents))
        assert served() == [("net", "1")]
        publish(repository, 5, name="other")
        stub.RepositoryModelLoad(load(model_name="other"))
        assert served() == [("net", "1"), ("other", "2")]
        publish(repository, 6, name="other")
        assert served()[1] == ("other", "2")
        stub.RepositoryModelLoad(load(model_name="other"))
        assert served()[1] == ("other", "3")
        stub.RepositoryModelUnload(unload(model_name="other"))
        for call, request in (
            (stub.RepositoryModelUnload, unload(model_name="other")),
            (stub.RepositoryModelLoad, load(model_name="nobody")),
            (stub.RepositoryModelLoad, load(model_name="../net")),
            (stub.RepositoryModelLoad, load(model_name="")),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call(request)
            assert failure.value.code() is grpc.StatusCode.NOT_FOUND
    with start_server(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.RepositoryModelLoad, load(model_name="net")),
            (stub.RepositoryModelUnload, unload(model_name="net")),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call(request)
            assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert "--model-control" in failure.value.details()


def test_the_only_model_is_not_served_once_it_is_unloaded(start_server: Start, repository: Repository) -> None:
    with (
        start_server("--repository", str(repository.root), "--model-control", "--http-port", "0") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        url = server.process.stdout.readline().split()[-1]
        inference = inference_pb2_grpc.GRPCInferenceServiceStub(channel)

        def readiness() -> tuple[bool, int]:
            ready = inference.ServerReady(inference_pb2.ServerReadyRequest()).ready
            try:
                return ready, urllib.request.urlopen(f"{url}/readyz").status
            except urllib.error.HTTPError as error:
                return ready, error.code

        assert "model_repository" in inference.ServerMetadata(inference_pb2.ServerMetadataRequest()).extensions
        assert readiness() == (True, 200)
        inference.RepositoryModelUnload(inference_pb2.RepositoryModelUnloadRequest(model_name="net"))
        assert readiness() == (False, 503)
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        for name in ("", "net"):
            with pytest.raises(grpc.RpcError) as failure:
                stub.GetModel(digits_pb2.GetModelRequest(model_name=name))
            assert failure.value.code() is grpc.StatusCode.NOT_FOUND
            assert failure.value.details() == "no model 'net' is served here"
        inference.RepositoryModelLoad(inference_pb2.RepositoryModelLoadRequest(model_name="net"))
        assert readiness() == (True, 200)


def test_without_any_model_the_error_does_not_speak_of_several() -> None:
    router = Router(Rollout(number=1, default="", models=(), routes={}, max_request_bytes=1), [])
    with pytest.raises(ModelNotFound, match=r"^no model is served here$"):
        router.find("", 0, "")


def test_an_error_names_no_more_models_than_a_client_takes(start_server: Start, repository: Repository) -> None:
    for number in range(60):
        shutil.copytree(repository.root / "net", repository.root / (name := f"net-{number}".ljust(128, "x")))
        path = repository.root / name / "1" / "manifest.json"
        path.write_text(path.read_text().replace('"net"', f'"{name}"'))
    with start_server("--repository", str(repository.root)) as server, grpc.insecure_channel(server.address) as channel:
        stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
        for name, code in (("", grpc.StatusCode.INVALID_ARGUMENT), ("other", grpc.StatusCode.NOT_FOUND)):
            with pytest.raises(grpc.RpcError) as failure:
                stub.GetModel(digits_pb2.GetModelRequest(model_name=name))
            assert failure.value.code() is code
            assert failure.value.details().endswith(", …")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_hangs_does_not_keep_a_server_from_ending(
    start_server: Start, repository: Repository, workers: int
) -> None:
    labels = repository.root / "net" / "labels.json"
    with start_server("--repository", str(repository.root), "--workers", str(workers), *WATCH) as server:
        os.mkfifo(labels)
        with labels.open("wb"), Client(server.address) as client:  # blocks until the server reads it
            assert client.classify(np.zeros((1, 28, 28), np.uint8)).labels.tolist() == [1]
            assert server.stop()[0] == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_disk_that_hangs_does_not_keep_a_start_from_ending(repository: Repository, workers: str) -> None:
    labels = repository.root / "net" / "labels.json"
    os.mkfifo(labels)
    command = [Path(sys.executable).parent / "digits-serve", "--port", "0", "--repository", repository.root]
    with subprocess.Popen([*command, "--workers", workers]) as process:
        try:
            with labels.open("wb"):  # blocks until the server reads it
                process.terminate()
                assert process.wait(20) == 0
        finally:
            process.kill()


def test_a_version_that_is_no_longer_served_frees_its_memory(start_server: Start, repository: Repository) -> None:
    """Twelve versions of 40 MB, one after the other."""
    options = ("--repository", str(repository.root), "--linger-s", "0.1", *WATCH)
    with start_server(*options) as server, Client(server.address) as client:
        process, peaks = psutil.Process(server.process.pid), []
        for version in range(2, 14):
            content = constant_model(version % 10, ballast=40_000_000)
            repository.publish(content, manifest_of(content))
            shutil.rmtree(repository.root / "net" / str(version - 1))
            _read_until(server, f"net version {version - 1} is unloaded")
            assert client.get_model().model_version == version
            peaks.append(process.memory_info().rss / 1e6)
        assert max(peaks[4:]) < peaks[0] + 60, peaks


def _metrics_url(server) -> str:
    return re.search(r"http://\S+/metrics", _read_until(server, "metrics on"))[0]


def _read_until(server, text: str) -> str:
    """Reads the server's log up to a line that contains the text."""
    for line in server.process.stderr:
        if text in line:
            return line
    pytest.fail(f"the server ended and never said {text!r}")


def _versions_when(client: Client, count: int) -> list:
    """Returns the versions that `GetModel` lists, once there are `count` of them."""
    ends = time.monotonic() + 20
    while len(versions := client.get_model().versions) < count:
        assert time.monotonic() < ends
        time.sleep(0.01)
    return list(versions)
