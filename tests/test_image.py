"""The container image, really built and run: `make image`. Needs root and Debian's buildah and mmdebstrap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from image import ROOT, TOOLS, Image, build_image, main_process, stop
from ports import free_port

import serving
from serving.client import Client

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not os.environ.get("BUILD_IMAGE"), reason="builds an image: make image runs it"),
]

MODEL = "mnist_convnet"
# The unary methods that describe something, with a request that each answers. A method in neither list fails the test.
DESCRIBING = {
    "digits.v1.DigitClassifierService/GetModel": {},
    "grpc.health.v1.Health/Check": {},
    "grpc.health.v1.Health/List": {},
    "inference.GRPCInferenceService/ServerLive": {},
    "inference.GRPCInferenceService/ServerReady": {},
    "inference.GRPCInferenceService/ServerMetadata": {},
    "inference.GRPCInferenceService/ModelReady": {"name": MODEL},
    "inference.GRPCInferenceService/ModelMetadata": {"name": MODEL},
    "inference.GRPCInferenceService/ModelConfig": {"name": MODEL},
    "inference.GRPCInferenceService/ModelStatistics": {"name": MODEL},
    "inference.GRPCInferenceService/RepositoryIndex": {},
}
# These classify or change something.
OTHERS = {
    "digits.v1.DigitClassifierService/Classify",
    "inference.GRPCInferenceService/ModelInfer",
    "inference.GRPCInferenceService/RepositoryModelLoad",
    "inference.GRPCInferenceService/RepositoryModelUnload",
}
OVER_HTTP = ["/v2", "/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/ready"]


@pytest.fixture(scope="module")
def revision() -> str:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return head.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, revision: str) -> Iterator[Image]:
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.fail(f"needs root and {', '.join(missing or TOOLS)}: apt-get install buildah mmdebstrap", pytrace=False)
    with build_image(tmp_path_factory.mktemp("image"), revision=revision) as built:
        yield built


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Other ports than the image's own, and addresses of this machine alone."""
    ports = {name: str(free_port()) for name in ("DIGITS_PORT", "DIGITS_HTTP_PORT", "DIGITS_METRICS_PORT")}
    return {"DIGITS_HOST": "127.0.0.1", **ports}


@pytest.fixture(scope="module")
def container(image: Image, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`docker run IMAGE` with these ports; must end with exit code 0 at SIGTERM, whatever the tests did."""
    process = image.start(env=environment)
    try:
        announced = process.stdout.readline()
        if f" on 127.0.0.1:{environment['DIGITS_PORT']} with CPUExecutionProvider" not in announced:
            process.kill()
            pytest.fail(f"the container did not serve: {announced}{process.communicate(timeout=30)}")
        yield process
        code, stderr = stop(process)
        assert code == 0, stderr
    finally:
        process.kill()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def channel(container: subprocess.Popen[str], environment: dict[str, str]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{environment['DIGITS_PORT']}") as opened:
        yield opened


@pytest.fixture(scope="module")
def reflection(channel: grpc.Channel) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(channel)


def test_every_service_describes_itself(channel: grpc.Channel, reflection: ProtoReflectionDescriptorDatabase) -> None:
    pool = DescriptorPool(reflection)
    services = [pool.FindServiceByName(name) for name in reflection.get_services()]
    methods = {f"{service.full_name}/{method.name}": method for service in services for method in service.methods}
    unary = {name for name, method in methods.items() if not (method.client_streaming or method.server_streaming)}
    assert unary == {*DESCRIBING, *OTHERS}
    answers = {}
    for name, request in DESCRIBING.items():
        method = methods[name]
        call = channel.unary_unary(
            f"/{name}",
            request_serializer=message_factory.GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        message = message_factory.GetMessageClass(method.input_type)(**request)
        answers[name.rpartition("/")[2]] = call(message, timeout=10, wait_for_ready=True)
    assert answers["ServerMetadata"].version == serving.__version__
    assert answers["GetModel"].execution_provider == "CPUExecutionProvider"
    assert answers["ModelReady"].ready
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_it_answers_over_http_and_counts(container: subprocess.Popen[str], environment: dict[str, str]) -> None:
    address = f"http://127.0.0.1:{environment['DIGITS_HTTP_PORT']}"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answers = {path: direct.open(address + path, timeout=10).read() for path in OVER_HTTP}
    assert json.loads(answers["/v2"])["version"] == serving.__version__
    assert json.loads(answers[f"/v2/models/{MODEL}"])["name"] == MODEL
    metrics = direct.open(f"http://127.0.0.1:{environment['DIGITS_METRICS_PORT']}/metrics", timeout=10).read().decode()
    assert f'digits_model_info{{model="{MODEL}"' in metrics


def test_it_classifies_as_its_user_on_a_read_only_root(
    container: subprocess.Popen[str], environment: dict[str, str]
) -> None:
    with Client(f"127.0.0.1:{environment['DIGITS_PORT']}") as client:
        assert list(client.classify_files([ROOT / "serving/samples/7.png"]).labels) == [7]
    process = Path(f"/proc/{main_process(container)}")
    mounts = [line.split() for line in (process / "mountinfo").read_text(encoding="utf-8").splitlines()]
    assert [fields[5].split(",")[0] for fields in mounts if fields[4] == "/"] == ["ro"]
    status = (process / "status").read_text(encoding="utf-8")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert facts["Uid"].split() == ["10001"] * 4
    assert facts["Gid"].split() == ["10001"] * 4
    assert int(facts["CapEff"], 16) == 0


def test_its_health_check_asks_the_port_that_is_set(
    image: Image, container: subprocess.Popen[str], environment: dict[str, str]
) -> None:
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    healthy = image.run(*check, env=environment, entry=False)
    assert (healthy.returncode, healthy.stdout) == (0, "SERVING\n"), healthy.stderr
    dead = image.run(*check, "--timeout-s", "0.5", env={**environment, "DIGITS_PORT": str(free_port())}, entry=False)
    assert dead.returncode == 1


def test_options_alone_are_those_of_serve(image: Image) -> None:
    container = image.start("--host", "127.0.0.1", "--port", "0", "--workers", "2")
    try:
        assert f"serving {MODEL} version 1 on 127.0.0.1:" in container.stdout.readline()
        code, stderr = stop(container)
        assert code == 0, stderr
    finally:
        container.kill()
        container.communicate(timeout=30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [("doctor", MODEL), ("models list", MODEL), ("--version", serving.__version__), ("--help", "doctor")],
)
def test_it_has_the_other_commands_too(image: Image, arguments: str, said: str) -> None:
    done = image.run(*arguments.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout


def test_it_says_what_it_is(image: Image, revision: str) -> None:
    labels = {name.rpartition(".")[2]: value for name, value in image.config["Labels"].items()}
    assert labels["version"] == serving.__version__
    assert labels["revision"] == revision
    assert labels["licenses"] == "MIT"
    assert (image.root / "app/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert sorted(path.name for path in (image.root / "app").iterdir()) == ["LICENSE", "protos", "serving"]
    assert list((image.root / "app").rglob("__pycache__")) == []
    assert list((image.root / "opt/venv/lib").glob("python*/site-packages/pip")) == []
