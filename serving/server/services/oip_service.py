"""`inference.GRPCInferenceService`, the Open Inference Protocol: decodes requests, delegates, encodes responses.

It serves HTTP too: `serving.server.http` calls the same methods with the same messages.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt

from protos.inference import inference_pb2 as pb
from serving.errors import DeadlinePassed, DigitsError, InvalidRequest, ModelNotFound
from serving.inference.request import InferenceResult
from serving.inference.statistics import Counts
from serving.repository.labels import CANARY, STABLE
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services import oip_metadata
from serving.server.services.bidi_stream import ROW_BYTES, BidiStreamHandler
from serving.server.services.handlers import Context, deadline_of
from serving.server.services.oip_codec import decode_request, encode_response
from serving.server.services.oip_tensors import quoted
from serving.server.services.status import code_of, status_of
from serving.server.telemetry.calls import current_call

_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class ModelControl(Protocol):
    """Loads and unloads models, and adds up their statistics, in all processes that serve."""

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """Returns the counts of all processes, by name and version of what is served."""

    async def load(self, name: str) -> None:
        """Reads the repository again, and serves the model even if it was unloaded."""

    async def unload(self, name: str) -> None:
        """Stops serving a model until it is loaded again."""


class InferenceService:
    """The servicer. It uses only the remaining time of its context, so that any front end can host it.

    Args:
        deployments: The deployments to choose from.
        max_stream_rows: How many rows one stream may have in flight.
        draining: Set when the server stops; then it is live but not ready.
        control: Loads and unloads models.
        model_control: Whether clients may do so.
    """

    DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(
        self,
        deployments: Deployments,
        *,
        max_stream_rows: int,
        draining: asyncio.Event,
        control: ModelControl,
        model_control: bool,
    ) -> None:
        self._deployments = deployments
        self._control = control
        self._model_control = model_control
        self._draining = draining
        self._streams = BidiStreamHandler(self._infer_in_stream, claimed_rows=_claimed_rows, max_rows=max_stream_rows)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """Returns true: the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Returns whether models are served, all of them ready, and the server is not stopping."""
        return pb.ServerReadyResponse(ready=not self._draining.is_set() and any(self._deployments))

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Returns whether a model is ready."""
        try:
            self._find(request.name, request.version)
        except InvalidRequest:
            raise
        except DigitsError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._draining.is_set())

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Describes the server."""
        return oip_metadata.server(model_control=self._model_control)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        """Describes the tensors of a model."""
        deployment = self._find(request.name, request.version)
        versions = [other.version for other in self._deployments if other.name == deployment.name]
        return oip_metadata.model(deployment, versions)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """Describes how a model is run."""
        return pb.ModelConfigResponse(config=oip_metadata.config(self._find(request.name, request.version)))

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Returns the statistics of one model, or of all, added up over all processes that serve."""
        chosen = list(self._deployments)
        if request.name:
            named = self._find(request.name, request.version)
            chosen = [each for each in chosen if each.name == named.name and (not request.version or each is named)]
        elif request.version:
            raise InvalidRequest.of("name", "a version needs the name of its model")
        keys = [(each.name, each.version) for each in chosen]
        counts = await self._control.counts()
        return pb.ModelStatisticsResponse(
            model_stats=[oip_metadata.statistics(*key, counts.get(key, Counts())) for key in keys]
        )

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Lists the models in the repository."""
        _check_repository(request.repository_name)
        return oip_metadata.index(self._deployments, only_ready=request.ready)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Reads the repository again, and serves the model even if it was unloaded."""
        _check_repository(request.repository_name)
        _check_parameters(request.parameters)
        await self._control.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Stops serving a model until it is loaded again."""
        _check_repository(request.repository_name)
        _check_parameters(request.parameters, "unload_dependents")  # no model depends on another
        await self._control.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Classifies the images of one request."""
        deadline, started = deadline_of(context), time.perf_counter()
        deployment = self._find(request.model_name, request.model_version, route=True)
        decoded = decode_request(request, deployment)
        current_call().images = len(decoded.images)
        decoded_s = time.perf_counter() - started
        if decoded.timeout_s:
            answer = await _classify_within(decoded.timeout_s, deployment, decoded.images, deadline)
        else:
            answer = await deployment.classify(decoded.images, deadline=deadline)
        started = time.perf_counter()
        response = encode_response(answer, decoded.outputs, deployment, request_id=request.id)
        deployment.statistics.converted(decoded_s, time.perf_counter() - started)
        return response

    def max_values(self, name: str, version: str) -> int:
        """Returns how many values the input of a request may have; raises as `ModelInfer` if nobody answers it."""
        found = self._find(name, version)
        others = (other for other in self._deployments if other.name == found.name)  # the canary's images may be larger
        return max(each.max_request_images * each.manifest.input.image_bytes for each in (found, *others))

    def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Classifies a stream of requests, in order."""
        return self._streams.responses(requests, context)

    def drain(self) -> None:
        """Ends every stream with UNAVAILABLE, once all requests that were read are answered."""
        self._streams.drain()

    async def _infer_in_stream(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelStreamInferResponse:
        call, code = current_call().request(), grpc.StatusCode.CANCELLED
        try:
            response = await self.ModelInfer(request, context)
            code = grpc.StatusCode.OK
        except Exception as error:  # noqa: BLE001 - one bad request must not end the stream
            status = status_of(error)
            code, failed = code_of(status), pb.ModelInferResponse(id=request.id)
            return pb.ModelStreamInferResponse(error_message=status.message, infer_response=failed)
        finally:
            call.end(code.name)
        # Clients that expect any number of responses per request wait for this parameter.
        response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)

    def find(self, name: str, version: str, *, route: bool = False) -> Deployment:
        """Finds a deployment.

        Args:
            name: Name of the model. Unlike in `digits.v1` it is required.
            version: A version number or a label; empty for the stable version.
            route: Whether an empty version may also choose the canary, for its share of the calls.

        Raises:
            InvalidRequest: The version is neither a positive number nor a label.
            ModelNotFound: The model or version is not served.
            NotReady: It is still being loaded.
        """
        label = version if version in (STABLE, CANARY) else ""
        if version and not label and not _VERSION.fullmatch(version):
            raise InvalidRequest.of(
                "model_version",
                f"failed to get model version from specified version string {quoted(version)}: "
                "must be a number above 0",
            )
        try:
            if not name:
                raise ModelNotFound
            find = self._deployments.find if route else self._deployments.find_for_metadata
            return find(name, 0 if label else int(version or 0), label)
        except ModelNotFound as error:
            which = f" version {version}" if version else ""
            raise ModelNotFound(f"Request for unknown model: {quoted(name)}{which} is not found") from error

    def _find(self, name: str, version: str, *, route: bool = False) -> Deployment:
        """Finds a deployment as `find` does, for the current call."""
        deployment = self.find(name, version, route=route)
        current_call().routed_to(deployment.name, deployment.version)
        return deployment


async def _classify_within(
    timeout_s: float, deployment: Deployment, images: npt.NDArray[np.uint8], deadline: float | None
) -> InferenceResult:
    """Classifies, or gives up in time: the batcher drops a late request only when the engine is free again."""
    until = time.monotonic() + timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            return await deployment.classify(images, deadline=until if deadline is None else min(deadline, until))
    except TimeoutError as error:
        raise DeadlinePassed("the request's timeout passed before it was answered") from error


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequest.of("repository_name", "'repository_name' specification is not supported")


def _check_parameters(parameters: Mapping[str, Any], *known: str) -> None:
    for name in parameters.keys() - known:
        raise InvalidRequest.of(f"parameters[{quoted(name)}]", "no parameter is supported here")


def _claimed_rows(request: pb.ModelInferRequest) -> int:
    shape = request.inputs[0].shape if request.inputs else ()
    return max(shape[0] if shape else 0, request.ByteSize() // ROW_BYTES)
