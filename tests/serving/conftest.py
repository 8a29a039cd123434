"""Models that change while clients call: real servers, each with one version, behind one address that switches."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from protos.digits.v1 import digits_pb2, digits_pb2_grpc
from serving.repository.manifest import InputSpec
from serving.repository.repository import Repository, StoredModel

# The versions of the model "shades", which tells how bright an image is. They differ in their labels, in the size of
# their images, or in how these are prepared. The fourth's have as many bytes as the first's; the fifth has the first's
# labels, in another order of shades.
VERSIONS = {
    1: {"labels": [f"shade-{n}" for n in range(5)]},
    2: {"labels": [f"tone-{n}" for n in range(7)], "preparation": "mnist"},
    3: {"labels": [f"small-{n}" for n in range(6)], "side": (12, 12)},
    4: {"labels": [f"flat-{n}" for n in range(4)], "side": (14, 56)},
    5: {"labels": [f"shade-{n}" for n in range(5)], "reversed": True},
}


def _shades(classes: int, side: tuple[int, int], *, reverse: bool) -> bytes:
    """A network that gives an image the class nearest to its mean brightness / 20."""
    centres = np.arange(classes, dtype=np.float32)
    centres = centres[::-1] if reverse else centres
    pixels = side[0] * side[1]
    weights = np.repeat(2 * centres[np.newaxis] / (20 * pixels), pixels, axis=0).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        "shades",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *side, 1])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", classes])
            for name in ("logits", "probabilities")
        ],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(-(centres**2), "bias")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()


class Rollout(digits_pb2_grpc.DigitClassifierServiceServicer):
    """One address in front of real servers. Calls that name a version go to it, and are NOT_FOUND where it is unloaded.

    Attributes:
        address: Where it listens.
        servers: The address of the server of each version, to ask it without detours.
        loaded: Versions that answer.
        stable: The version that is current.
        turns: The versions that answer Classify calls which name none, in turn; None for the stable one.
        before: Is told of every call before it is answered; may change the above.
        calls: Method, version that was asked for, version that was asked; in order.
    """

    def __init__(self, servers: dict[int, str]) -> None:
        self.servers = servers
        self._channels = {version: grpc.insecure_channel(address) for version, address in servers.items()}
        self._stubs = {
            version: digits_pb2_grpc.DigitClassifierServiceStub(channel) for version, channel in self._channels.items()
        }
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.loaded = set(self.servers)
        self.stable = 1
        self.turns: Iterator[int] | None = None
        self.before: Callable[[str, int], object] = lambda method, version: None
        self.calls: list[tuple[str, int, int]] = []

    def take_turns(self, *versions: int) -> None:
        self.turns = itertools.cycle(versions)

    def replace(self, old: int, new: int) -> None:
        """Unloads a version as another becomes current."""
        self.stable = new
        self.turns = None
        self.loaded.discard(old)

    def asked(self, method: str) -> list[int]:
        """The versions that calls of this method named, in order; 0 for none."""
        return [version for name, version, _ in self.calls if name == method]

    def Classify(self, request, context):  # noqa: N802
        return self._unary("Classify", request, context)

    def GetModel(self, request, context):  # noqa: N802
        return self._unary("GetModel", request, context)

    def ClassifyStream(self, requests: Iterable, context):  # noqa: N802
        for each in requests:
            try:
                yield digits_pb2.ClassifyStreamResponse(response=self._ask("Classify", each.request))
            except grpc.RpcError as error:
                status = dict(error.trailing_metadata())["grpc-status-details-bin"]
                yield digits_pb2.ClassifyStreamResponse(error=digits_pb2.Status.FromString(status))

    def _unary(self, method: str, request, context):
        try:
            return self._ask(method, request)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata())
            context.abort(error.code(), error.details())

    def _ask(self, method: str, request):
        with self._lock:
            self.before(method, request.model_version)
            version = request.model_version
            if not version:
                version = next(self.turns) if self.turns and method == "Classify" else self.stable
            elif version not in self.loaded:
                version = self.stable  # which says that it is not there
            self.calls.append((method, request.model_version, version))
        return getattr(self._stubs[version], method)(request, timeout=20)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()


@pytest.fixture(scope="session")
def shades(tmp_path_factory: pytest.TempPathFactory, shipped: StoredModel) -> Path:
    """A repository with all versions of the model."""
    repository = Repository(tmp_path_factory.mktemp("shades"))
    for version, about in VERSIONS.items():
        side = about.get("side", (28, 28))
        content = _shades(len(about["labels"]), side, reverse="reversed" in about)
        manifest = dataclasses.replace(
            shipped.manifest,
            model_name="shades",
            sha256=hashlib.sha256(content).hexdigest(),
            labels=tuple(about["labels"]),
            input=InputSpec(height=side[0], width=side[1], channels=1, preparation=about.get("preparation", "resize")),
            no_digit=None,
            validation=None,
        )
        assert repository.publish(content, manifest) == version
    return repository.root


@pytest.fixture(scope="module")
def running_rollout(shades: Path, start_server: Callable) -> Iterator[Rollout]:
    with contextlib.ExitStack() as servers:
        addresses = {
            version: servers.enter_context(
                start_server("--repository", str(shades), "--model-version", str(version), "--max-batch-rows", "100")
            ).address
            for version in VERSIONS
        }
        made = Rollout(addresses)
        server = grpc.server(ThreadPoolExecutor(32))
        digits_pb2_grpc.add_DigitClassifierServiceServicer_to_server(made, server)
        made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield made
        server.stop(None).wait()
        made.close()


@pytest.fixture
def rollout(running_rollout: Rollout) -> Rollout:
    """Version 1 is stable, and all are loaded."""
    running_rollout.reset()
    return running_rollout
