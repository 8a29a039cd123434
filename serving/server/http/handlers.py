"""The outermost boundary of every HTTP call: admission, errors to responses, and what is reported of the call.

What is not about HTTP is shared with gRPC's boundary, `serving.server.services.handlers`.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Collection, Sequence

import grpc
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from serving.server.http.body import HttpError, read_body
from serving.server.security.admission import AdmissionControl
from serving.server.services.handlers import STOPPING, Metadata, Trailer, accept_request_id
from serving.server.services.status import HTTP_STATUSES, code_of, status_of
from serving.server.telemetry.calls import Call, CallObserver
from serving.server.telemetry.logs import request_id

JSON = "application/json"


class HttpContext:
    """The part of a gRPC context that the services use."""

    def __init__(self, request: Request) -> None:
        self._metadata = tuple(request.headers.items())
        self._client = request.client
        self.response_headers: dict[str, str] = {}

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """Returns the request headers, with names in lower case."""
        return self._metadata

    def peer(self) -> str:
        """Returns the client's address and port; `unix:` if it has none."""
        if self._client is None:
            return "unix:"
        host = self._client.host.removeprefix("::ffff:")  # IPv4 on a socket that takes IPv6 too
        return f"[{host}]:{self._client.port}" if ":" in host else f"{host}:{self._client.port}"

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        """Sets headers of the response; bytes are sent in base64."""
        for name, value in metadata:
            self.response_headers[name] = value if isinstance(value, str) else base64.b64encode(value).decode()

    def time_remaining(self) -> float | None:
        """Returns None: HTTP has no deadlines. A request can have a timeout among its parameters."""
        return None


# Answers a request, given its body.
Endpoint = Callable[[Request, bytes, HttpContext], Awaitable[Response]]


class HttpHandlers:
    """Makes routes whose calls pass the boundary.

    Args:
        observers: Observe every call.
        draining: Set when the server stops; from then on each response closes its connection.
        max_body_bytes: The largest request body.
        cors_origins: The origins whose scripts may call; `*` for any.
        load_report: Makes the load report of a call that asks for one.
    """

    def __init__(
        self,
        observers: Sequence[CallObserver],
        *,
        draining: asyncio.Event,
        max_body_bytes: int,
        cors_origins: Collection[str],
        load_report: Trailer,
    ) -> None:
        self._load_report = load_report
        self._observers = observers
        self._cors_origins = cors_origins
        self._draining = draining
        self._max_body_bytes = max_body_bytes

    def route(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        admission: AdmissionControl,
        *,
        name: str = "",
        in_schema: bool = True,
    ) -> Route:
        """Makes a route.

        Args:
            method: GET or POST. Only a POST's body is read.
            path: The path, with parameters in braces.
            endpoint: Answers the calls.
            admission: Admits the calls, before their body is read and again before they are answered.
            name: The path that observers see instead, so that they see one name for both paths of a method.
            in_schema: Whether the description of the interface has it, with the endpoint's docstring.
        """

        async def answer(request: Request) -> Response:
            return await self._answer(f"{method} {name or path}", endpoint, admission, request)

        answer.__doc__ = inspect.getdoc(endpoint)
        return Route(path, answer, methods=[method], include_in_schema=in_schema)

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answers a request with an unknown path, or with the wrong method for its path."""
        call = Call("no route", HttpContext(request), self._observers)
        missing = isinstance(error, HTTPException) and error.status_code == 404
        code = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.UNIMPLEMENTED
        message = "there is nothing at this path" if missing else "this path takes another method"
        headers = dict(getattr(error, "headers", None) or {})
        call.end(code.name)
        return Response(error_body(message), 404 if missing else 405, headers, JSON)

    async def _answer(self, name: str, endpoint: Endpoint, admission: AdmissionControl, request: Request) -> Response:
        context = HttpContext(request)
        call, code = Call(name, context, self._observers), grpc.StatusCode.CANCELLED
        request_id.set("")  # that of the connection's previous request may still be set
        accept_request_id(context)
        try:
            body = b""
            if request.method == "POST":
                self._check_origin(request)
                with admission.admit(context):  # but a client that sends slowly must not count as a running call
                    pass
                body = await read_body(request, self._max_body_bytes)
            with admission.admit(context):
                response = await _unless_gone(endpoint(request, body, context), request.receive)
            code = grpc.StatusCode.OK
        except ClientDisconnect:
            response = Response()  # nobody receives it
        except asyncio.CancelledError:  # the grace period has ended
            response = Response(error_body(STOPPING), 503, media_type=JSON)
        except Exception as error:  # noqa: BLE001 - the outermost boundary
            code, response = _failure(error)
        finally:
            call.end(code.name)
        context.set_trailing_metadata(self._load_report(context))
        response.headers.update(context.response_headers)
        response.headers["x-content-type-options"] = "nosniff"
        if self._draining.is_set():
            response.headers["connection"] = "close"
        return response

    def _check_origin(self, request: Request) -> None:
        """Refuses what a page from elsewhere makes a browser send, since a browser does not always ask before.

        Such a page could otherwise unload the models of a server on the user's own machine. Browsers say in
        Sec-Fetch-Site where the page is from (W3C, Fetch Metadata Request Headers).

        Raises:
            HttpError: The page's origin is not among those that may call.
        """
        foreign = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and not {"*", request.headers.get("origin")} & set(self._cors_origins):
            message = "pages of this origin may not call; the server's option --cors-origin allows it"
            raise HttpError(403, grpc.StatusCode.PERMISSION_DENIED, message)


def error_body(message: str) -> bytes:
    """Makes the body of an error response, as Triton has it."""
    return json.dumps({"error": message}).encode()


def _failure(error: Exception) -> tuple[grpc.StatusCode, Response]:
    """Returns the code for logs and metrics, and the response. Logs the traceback of an unexpected error."""
    if isinstance(error, HttpError):
        return error.code, Response(error_body(str(error)), error.status, media_type=JSON)
    status = status_of(error)
    code = code_of(status)
    response = Response(error_body(status.message), HTTP_STATUSES.get(code, 500), media_type=JSON)
    if code is grpc.StatusCode.UNAUTHENTICATED:
        response.headers["www-authenticate"] = "Bearer"
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        response.headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    return code, response


async def _unless_gone(answer: Awaitable[Response], receive: Receive) -> Response:
    """Awaits an answer, and cancels it if the client goes away.

    Raises:
        starlette.requests.ClientDisconnect: The client went away.
    """
    answering, leaving = asyncio.ensure_future(answer), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ClientDisconnect
        return answering.result()
    finally:
        leaving.cancel()
        if not answering.done():
            answering.cancel()
            await asyncio.wait({answering})
            if not answering.cancelled():
                answering.exception()  # retrieved, so that asyncio does not log it


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # skips the body of a GET request
