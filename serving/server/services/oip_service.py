"""`inference.GRPCInferenceService`, the Open Inference Protocol: decodes requests, delegates, encodes answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from protos.inference import inference_pb2 as pb
from serving.errors import DigitsError, InvalidRequest
from serving.inference.statistics import Counts
from serving.rollout.deployments import Deployments
from serving.server.services import oip_inference, oip_metadata
from serving.server.services.handlers import Context
from serving.server.services.oip_inference import Inference, InferenceRequest, RequestedOutput
from serving.server.services.oip_tensors import Tensor, shown
from serving.server.services.ordered_stream import OrderedStreams
from serving.server.services.status import status_of

_ROW_BYTES = 16 * 1024


class Fleet(Protocol):
    """All processes that serve, this one among them."""

    async def counts(self) -> Mapping[tuple[str, int], Counts]:
        """What all have counted, by name and version of what is served."""

    async def load(self, name: str) -> None:
        """Reads the repository again, and serves a model even where it was unloaded."""

    async def unload(self, name: str) -> None:
        """Serves a model no more until it is loaded again."""


class InferenceService:
    """The servicer. Uses of its context the remaining time alone, so that any front end can host it.

    Args:
        deployments: Where models are found.
        max_stream_rows: Images that one stream may have in flight.
        draining: Set once the server stops for good; then it is live and not ready.
        fleet: Loads and unloads models everywhere, and adds up what was counted.
    """

    DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]

    def __init__(
        self, deployments: Deployments, *, max_stream_rows: int, draining: asyncio.Event, fleet: Fleet
    ) -> None:
        self._deployments = deployments
        self._fleet = fleet
        self._draining = draining
        self._streams = OrderedStreams(_claimed_rows, self._infer_in_stream, max_stream_rows)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:  # noqa: N802
        """Says that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:  # noqa: N802
        """Says whether every model is ready and the server is not stopping."""
        ready = not self._draining.is_set() and self._deployments.ready
        return pb.ServerReadyResponse(ready=ready)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        """Says whether a model is ready."""
        try:
            oip_inference.find(self._deployments, request.name, request.version)
        except InvalidRequest:
            raise
        except DigitsError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._draining.is_set())

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Describes the server."""
        return oip_metadata.server()

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:  # noqa: N802
        """Describes a model's tensors."""
        deployment = oip_inference.find(self._deployments, request.name, request.version)
        versions = [other.version for other in self._deployments if other.name == deployment.name]
        return oip_metadata.model(deployment, versions)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:  # noqa: N802
        """Describes how a model is run."""
        deployment = oip_inference.find(self._deployments, request.name, request.version)
        return pb.ModelConfigResponse(config=oip_metadata.config(deployment))

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Context
    ) -> pb.ModelStatisticsResponse:
        """Says what a model, or each, has done, in all processes that serve."""
        if request.name:
            named = oip_inference.find(self._deployments, request.name, request.version)
            chosen = [
                (deployment.name, deployment.version)
                for deployment in self._deployments
                if deployment.name == named.name and (not request.version or deployment is named)
            ]
        elif request.version:
            raise InvalidRequest.of("name", "a version needs the name of its model")
        else:
            chosen = [(deployment.name, deployment.version) for deployment in self._deployments]
        counts = await self._fleet.counts()
        return pb.ModelStatisticsResponse(
            model_stats=[oip_metadata.statistics(*which, counts.get(which, Counts())) for which in chosen]
        )

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Context
    ) -> pb.RepositoryIndexResponse:
        """Lists the models that are served."""
        if request.repository_name:
            raise InvalidRequest.of("repository_name", "'repository_name' specification is not supported")
        return oip_metadata.index(self._deployments, ready=request.ready)

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Reads the repository again, and serves a model even where it was unloaded."""
        _check_control(request.repository_name, request.parameters)
        await self._fleet.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Serves a model no more until it is loaded again."""
        _check_control(request.repository_name, request.parameters, "unload_dependents")
        await self._fleet.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        """Classifies the images of one request."""
        return await self._infer(request, _deadline(context))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Classifies a stream of requests, in order."""
        async with aclosing(self._streams.answer(requests, _deadline(context))) as responses:
            async for response in responses:
                yield response

    def drain(self) -> None:
        """Ends every stream once it has answered what it has read; its client gets UNAVAILABLE and can go elsewhere."""
        self._streams.drain()

    async def _infer(self, request: pb.ModelInferRequest, deadline: float | None) -> pb.ModelInferResponse:
        done = await oip_inference.infer(_decode(request), self._deployments, deadline=deadline)
        return _encode(done, request.id)

    async def _infer_in_stream(
        self, request: pb.ModelInferRequest, deadline: float | None
    ) -> pb.ModelStreamInferResponse:
        try:
            response = await self._infer(request, deadline)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the stream
            failed = pb.ModelInferResponse(id=request.id)
            return pb.ModelStreamInferResponse(error_message=status_of(error).message, infer_response=failed)
        # Clients that reckon with any number of answers to a request wait for this word.
        response.parameters["triton_final_response"].bool_param = True
        return pb.ModelStreamInferResponse(infer_response=response)


def _check_control(repository_name: str, parameters: Mapping[str, Any], *known: str) -> None:
    if repository_name:
        raise InvalidRequest.of("repository_name", "'repository_name' specification is not supported")
    for name in parameters.keys() - known:  # no model depends on another
        raise InvalidRequest.of(f"parameters[{shown(name)}]", "no parameter is supported here")


def _deadline(context: Context) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def _claimed_rows(request: pb.ModelInferRequest) -> int:
    """Images that a request of a stream claims to have; many bytes count too, since they wait in memory."""
    shape = request.inputs[0].shape if request.inputs else ()
    return max(shape[0] if shape else 0, request.ByteSize() // _ROW_BYTES)


def _decode(request: pb.ModelInferRequest) -> InferenceRequest:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest.of(
            "raw_input_contents", f"{len(raw)} contents for {len(request.inputs)} inputs: there must be one for each"
        )
    return InferenceRequest(
        model_name=request.model_name,
        model_version=request.model_version,
        parameters=_parameters(request.parameters),
        inputs=[
            Tensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape),
                raw=raw[index] if raw else None,
                raw_field=f"raw_input_contents[{index}]",
                contents=_contents(tensor.contents) if tensor.HasField("contents") else {},
                parameters=_parameters(tensor.parameters),
            )
            for index, tensor in enumerate(request.inputs)
        ],
        outputs=[
            RequestedOutput(name=output.name, parameters=_parameters(output.parameters)) for output in request.outputs
        ],
    )


def _contents(contents: pb.InferTensorContents) -> dict[str, Sequence[Any]]:
    return {field.name: values for field, values in contents.ListFields()}


def _parameters(parameters: Mapping[str, Any]) -> dict[str, object]:
    """Takes parameters out of their messages; one without a value is None."""
    if not parameters:
        return {}
    return {
        name: getattr(parameter, kind) if (kind := parameter.WhichOneof("parameter_choice")) else None
        for name, parameter in parameters.items()
    }


def _encode(done: Inference, request_id: str) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=done.deployment.name,
        model_version=str(done.deployment.version),
        id=request_id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(name=output.name, datatype=output.datatype, shape=output.shape)
            for output in done.outputs
        ],
        raw_output_contents=[output.raw for output in done.outputs],
    )
