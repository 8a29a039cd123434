"""The Open Inference Protocol over HTTP: routes to the servicer that gRPC has too, and what operators ask for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest, NotReady
from serving.server.http import oip_json
from serving.server.http.call import JSON, Behaviour, HttpCalls, HttpContext
from serving.server.http.message_json import to_json
from serving.server.security.guard import Guard
from serving.server.services.handlers import CallObserver

# Bodies and answers of more are converted in a thread, one after the other: by then it takes a millisecond.
_LARGE_BYTES = 64 << 10
# Triton's name for tensors as bytes behind the JSON, which only this side has.
_BINARY_EXTENSION = "binary_tensor_data"
_JSON_LENGTH = "Inference-Header-Content-Length"


class HttpService:
    """The application.

    Args:
        servicer: Of `inference.GRPCInferenceService`.
        guard: Admits calls; the one that gRPC's calls pass.
        health_guard: Admits what asks about health.
        metrics_guard: Admits what asks for metrics.
        observers: Are told of every call.
        draining: Set once the server stops for good.
        max_body_bytes: Of a request's body; what gRPC's messages may have.
        metrics: Gives this server's metrics as text in one of the formats that its argument accepts, and the type of
            that; may block.
    """

    def __init__(
        self,
        servicer: Any,
        *,
        guard: Guard,
        health_guard: Guard,
        metrics_guard: Guard,
        observers: Sequence[CallObserver],
        draining: asyncio.Event,
        max_body_bytes: int,
        metrics: Callable[[str], tuple[bytes, str]],
    ) -> None:
        self._servicer = servicer
        self._metrics = metrics
        self._one_large = asyncio.Semaphore(1)
        calls = HttpCalls(observers, draining=draining, max_body_bytes=max_body_bytes)
        routes = [
            calls.route("GET", "/healthz", self._live, health_guard),
            calls.route("GET", "/readyz", self._ready, health_guard),
            calls.route("GET", "/v2/health/live", self._live, health_guard),
            calls.route("GET", "/v2/health/ready", self._health_ready, health_guard),
            calls.route("GET", "/metrics", self._show_metrics, metrics_guard),
            calls.route("GET", "/v2", self._server, guard),
            calls.route("GET", "/v2/models/stats", self._statistics, guard),
            calls.route("GET", "/v2/repository/index", self._index, guard),
            calls.route("POST", "/v2/repository/index", self._index, guard),
            calls.route("POST", "/v2/repository/models/{name}/load", self._load, guard),
            calls.route("POST", "/v2/repository/models/{name}/unload", self._unload, guard),
        ]
        of_models: list[tuple[str, str, Behaviour]] = [
            ("GET", "", self._model),
            ("GET", "/ready", self._model_ready),
            ("GET", "/config", self._config),
            ("GET", "/stats", self._statistics),
            ("POST", "/infer", self._infer),
        ]
        for method, path, behaviour in of_models:
            for version in ("", "/versions/{version}"):
                name = "/v2/models/{name}" + path
                routes.append(calls.route(method, "/v2/models/{name}" + version + path, behaviour, guard, name=name))
        self.app = Starlette(routes=routes, exception_handlers={HTTPException: calls.no_route})
        self.app.router.redirect_slashes = False  # what a redirect says of this server's address may be wrong

    async def _live(self, request: Request, body: bytes, context: HttpContext) -> Response:
        live = (await self._servicer.ServerLive(pb.ServerLiveRequest(), context)).live
        return _json({"live": live}, 200 if live else 400)

    async def _ready(self, request: Request, body: bytes, context: HttpContext) -> Response:
        if not (await self._servicer.ServerReady(pb.ServerReadyRequest(), context)).ready:
            raise NotReady("the server is starting or stopping")
        return _json({"ready": True})

    async def _health_ready(self, request: Request, body: bytes, context: HttpContext) -> Response:
        ready = (await self._servicer.ServerReady(pb.ServerReadyRequest(), context)).ready
        return _json({"ready": ready}, 200 if ready else 400)  # the protocol's word for no

    async def _show_metrics(self, request: Request, body: bytes, context: HttpContext) -> Response:
        content, media_type = await asyncio.to_thread(self._metrics, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})

    async def _server(self, request: Request, body: bytes, context: HttpContext) -> Response:
        found = await self._servicer.ServerMetadata(pb.ServerMetadataRequest(), context)
        found.extensions.append(_BINARY_EXTENSION)
        return _json(to_json(found))

    async def _model(self, request: Request, body: bytes, context: HttpContext) -> Response:
        return _json(to_json(await self._servicer.ModelMetadata(_named(pb.ModelMetadataRequest, request), context)))

    async def _model_ready(self, request: Request, body: bytes, context: HttpContext) -> Response:
        ready = (await self._servicer.ModelReady(_named(pb.ModelReadyRequest, request), context)).ready
        return _json({"ready": ready}, 200 if ready else 400)

    async def _config(self, request: Request, body: bytes, context: HttpContext) -> Response:
        found = await self._servicer.ModelConfig(_named(pb.ModelConfigRequest, request), context)
        return _json(to_json(found.config))

    async def _statistics(self, request: Request, body: bytes, context: HttpContext) -> Response:
        return _json(to_json(await self._servicer.ModelStatistics(_named(pb.ModelStatisticsRequest, request), context)))

    async def _index(self, request: Request, body: bytes, context: HttpContext) -> Response:
        asked = pb.RepositoryIndexRequest(ready=oip_json.only_ready(body))
        found = await self._servicer.RepositoryIndex(asked, context)
        return _json([to_json(model) for model in found.models])

    async def _load(self, request: Request, body: bytes, context: HttpContext) -> Response:
        asked = pb.RepositoryModelLoadRequest(model_name=request.path_params["name"])
        oip_json.set_parameters(asked.parameters, oip_json.parameters_of(body), "parameters")
        await self._servicer.RepositoryModelLoad(asked, context)
        return _json({})

    async def _unload(self, request: Request, body: bytes, context: HttpContext) -> Response:
        asked = pb.RepositoryModelUnloadRequest(model_name=request.path_params["name"])
        oip_json.set_parameters(asked.parameters, oip_json.parameters_of(body), "parameters")
        await self._servicer.RepositoryModelUnload(asked, context)
        return _json({})

    async def _infer(self, request: Request, body: bytes, context: HttpContext) -> Response:
        asked = await self._apart(
            len(body),
            lambda: oip_json.decode(
                body,
                ",".join(request.headers.getlist(_JSON_LENGTH)) or None,
                name=request.path_params["name"],
                version=request.path_params.get("version", ""),
            ),
        )
        try:
            done = await self._servicer.ModelInfer(asked.message, context)
        except InvalidRequest as error:
            raise oip_json.in_words_of_http(error) from error
        content, json_length = await self._apart(done.ByteSize(), lambda: oip_json.encode(done, asked))
        if json_length is None:
            return Response(content, media_type=JSON)
        return Response(content, headers={_JSON_LENGTH: str(json_length)}, media_type="application/octet-stream")

    async def _apart(self, size: int, convert: Callable[[], Any]) -> Any:
        """Converts something of so many bytes: where that is much, in a thread, one at a time to bound memory."""
        if size <= _LARGE_BYTES:
            return convert()
        async with self._one_large:
            return await asyncio.to_thread(convert)


def _named(message: Callable[..., Message], request: Request) -> Message:
    parameters: Mapping[str, str] = request.path_params
    return message(name=parameters.get("name", ""), version=parameters.get("version", ""))


def _json(document: object, status: int = 200) -> Response:
    return Response(json.dumps(document), status, media_type=JSON)
