"""The HTTP interface: routes to the servicers that serve gRPC too, to health and metrics, and to the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from protos.inference import inference_pb2 as pb
from serving.errors import InvalidRequest, NotReady
from serving.server.http import oip_json
from serving.server.http.classify import ClassifyEndpoints
from serving.server.http.handlers import JSON, Endpoint, HttpContext, HttpHandlers
from serving.server.http.message_json import to_json
from serving.server.http.openapi import describe
from serving.server.http.page_files import page_routes
from serving.server.security.admission import AdmissionControl
from serving.server.services.digits_service import DigitClassifierService
from serving.server.services.handlers import REQUEST_ID_KEY, Trailer
from serving.server.telemetry.calls import CallObserver

# Larger bodies are converted in a thread, one at a time: the conversion takes more than a millisecond.
_LARGE_BYTES = 64 << 10
# Triton's name for tensors as bytes after the JSON, which only HTTP has.
_BINARY_EXTENSION = "binary_tensor_data"

# Headers of this interface that scripts of other origins may send, and those that they may read.
_CORS_SENT = ("authorization", "content-encoding", "content-type", REQUEST_ID_KEY, oip_json.JSON_LENGTH_HEADER)
_CORS_READ = ("retry-after", REQUEST_ID_KEY, oip_json.JSON_LENGTH_HEADER)


class HttpApp(Starlette):
    """The ASGI application.

    Args:
        servicer: The servicer of `inference.GRPCInferenceService`.
        digits: The servicer of `digits.v1.DigitClassifierService`.
        admission: Admits calls; shared with gRPC.
        health_admission: Admits health checks.
        metrics_admission: Admits requests for metrics.
        page_admission: Admits requests for the page; None for no page.
        cors_origins: The origins whose scripts may call.
        observers: Observe every call.
        load_report: Makes the load report of a call that asks for one.
        draining: Set when the server stops.
        max_body_bytes: The largest request body; the limit of gRPC's messages.
        max_images: The most images that a request may have, of any model.
        metrics: Returns this server's metrics in a format that its argument, an `Accept` header, allows, and the media
            type of that format. May block.
    """

    def __init__(
        self,
        servicer: Any,
        digits: DigitClassifierService,
        *,
        admission: AdmissionControl,
        health_admission: AdmissionControl,
        metrics_admission: AdmissionControl,
        page_admission: AdmissionControl | None,
        cors_origins: Sequence[str],
        observers: Sequence[CallObserver],
        load_report: Trailer,
        draining: asyncio.Event,
        max_body_bytes: int,
        max_images: int,
        metrics: Callable[[str], tuple[bytes, str]],
    ) -> None:
        self._servicer = servicer
        self._metrics = metrics
        self._one_large = asyncio.Semaphore(1)
        handlers = HttpHandlers(
            observers,
            draining=draining,
            max_body_bytes=max_body_bytes,
            cors_origins=cors_origins,
            load_report=load_report,
        )
        classify = ClassifyEndpoints(digits, self._converted, max_images=max_images)
        routes = [
            handlers.route("POST", "/v1/classify", classify.classify, admission),
            handlers.route("GET", "/v1/model", classify.model, admission),
            handlers.route("GET", "/openapi.json", self._openapi, admission),
            handlers.route("GET", "/healthz", self._live, health_admission),
            handlers.route("GET", "/readyz", self._readyz, health_admission),
            handlers.route("GET", "/v2/health/live", self._live, health_admission),
            handlers.route("GET", "/v2/health/ready", self._ready, health_admission),
            handlers.route("GET", "/metrics", self._show_metrics, metrics_admission),
            handlers.route("GET", "/v2", self._server, admission),
            handlers.route("GET", "/v2/models/stats", self._statistics, admission),
            handlers.route("GET", "/v2/repository/index", self._index, admission),
            handlers.route("POST", "/v2/repository/index", self._index, admission),
            handlers.route("POST", "/v2/repository/models/{name}/load", self._load, admission),
            handlers.route("POST", "/v2/repository/models/{name}/unload", self._unload, admission),
        ]
        model_endpoints: list[tuple[str, str, Endpoint]] = [
            ("GET", "", self._model),
            ("GET", "/ready", self._model_ready),
            ("GET", "/config", self._config),
            ("GET", "/stats", self._statistics),
            ("POST", "/infer", self._infer),
        ]
        for method, path, endpoint in model_endpoints:
            name = "/v2/models/{name}" + path
            for full_path in (name, "/v2/models/{name}/versions/{version}" + path):
                routes.append(handlers.route(method, full_path, endpoint, admission, name=name))
        self._description = json.dumps(describe(routes))
        if page_admission is not None:
            routes += page_routes(handlers, page_admission)
        super().__init__(
            routes=routes,
            exception_handlers={HTTPException: handlers.no_route},
            middleware=[_cors(cors_origins)] if cors_origins else [],
        )
        self.router.redirect_slashes = False  # behind a proxy the server does not know its address

    async def _openapi(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Describes this interface."""
        return Response(self._description, media_type=JSON)

    async def _live(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Says whether the process answers."""
        live = (await self._servicer.ServerLive(pb.ServerLiveRequest(), context)).live
        return _json({"live": live}, 200 if live else 400)

    async def _ready(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Says whether models can be called."""
        return _readiness((await self._servicer.ServerReady(pb.ServerReadyRequest(), context)).ready)

    async def _readyz(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Answers 200 if models can be called, else 503."""
        response = await self._ready(request, body, context)
        if response.status_code != 200:
            raise NotReady("the server is starting or stopping, or serves no model")
        return response

    async def _show_metrics(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Shows metrics in Prometheus's format."""
        content, media_type = await asyncio.to_thread(self._metrics, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": media_type})

    async def _server(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Describes the server."""
        found = await self._servicer.ServerMetadata(pb.ServerMetadataRequest(), context)
        found.extensions.append(_BINARY_EXTENSION)
        return _json(to_json(found))

    async def _model(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Describes the inputs and outputs of a model."""
        asked = pb.ModelMetadataRequest(**_name_and_version(request))
        return _json(to_json(await self._servicer.ModelMetadata(asked, context)))

    async def _model_ready(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Says whether a model can be called."""
        asked = pb.ModelReadyRequest(**_name_and_version(request))
        return _readiness((await self._servicer.ModelReady(asked, context)).ready)

    async def _config(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Shows the configuration of a model, as Triton has it."""
        asked = pb.ModelConfigRequest(**_name_and_version(request))
        return _json(to_json((await self._servicer.ModelConfig(asked, context)).config))

    async def _statistics(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Shows what models have done so far."""
        asked = pb.ModelStatisticsRequest(**_name_and_version(request))
        return _json(to_json(await self._servicer.ModelStatistics(asked, context)))

    async def _index(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Lists the models and versions of the repository."""
        asked = pb.RepositoryIndexRequest(ready=oip_json.only_ready(body))
        found = await self._servicer.RepositoryIndex(asked, context)
        return _json([to_json(model) for model in found.models])

    async def _load(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Loads what is new of a model, where clients may."""
        asked = pb.RepositoryModelLoadRequest(model_name=request.path_params["name"])
        oip_json.decode_parameters(body, asked.parameters)
        await self._servicer.RepositoryModelLoad(asked, context)
        return _json({})

    async def _unload(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Unloads a model, where clients may."""
        asked = pb.RepositoryModelUnloadRequest(model_name=request.path_params["name"])
        oip_json.decode_parameters(body, asked.parameters)
        await self._servicer.RepositoryModelUnload(asked, context)
        return _json({})

    async def _infer(self, request: Request, body: bytes, context: HttpContext) -> Response:
        """Classifies tensors, as the Open Inference Protocol has them."""
        header = ",".join(request.headers.getlist(oip_json.JSON_LENGTH_HEADER)) or None
        which = _name_and_version(request)
        max_values = self._servicer.max_values(**which)
        asked = await self._converted(
            len(body), lambda: oip_json.decode_request(body, header, **which, max_values=max_values)
        )
        try:
            found = await self._servicer.ModelInfer(asked.message, context)
        except InvalidRequest as error:
            raise oip_json.with_json_fields(error) from error
        content, json_length = await self._converted(found.ByteSize(), lambda: oip_json.encode_response(found, asked))
        if json_length is None:
            return Response(content, media_type=JSON)
        return Response(
            content, headers={oip_json.JSON_LENGTH_HEADER: str(json_length)}, media_type="application/octet-stream"
        )

    async def _converted(self, size: int, convert: Callable[[], Any]) -> Any:
        """Converts something of `size` bytes. Does so in a thread if that is much, one at a time to limit memory."""
        if size <= _LARGE_BYTES:
            return convert()
        async with self._one_large:
            return await asyncio.to_thread(convert)


def _cors(origins: Sequence[str]) -> Middleware:
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=("GET", "POST"),
        allow_headers=_CORS_SENT,
        expose_headers=_CORS_READ,
    )


def _name_and_version(request: Request) -> dict[str, str]:
    return {"name": request.path_params.get("name", ""), "version": request.path_params.get("version", "")}


def _json(document: object, status: int = 200) -> Response:
    return Response(json.dumps(document), status, media_type=JSON)


def _readiness(ready: bool) -> Response:
    return _json({"ready": ready}, 200 if ready else 400)  # the protocol answers 400 for no
