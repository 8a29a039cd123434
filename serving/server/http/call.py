"""One call over HTTP: admitted, answered or refused, and reported; as `services.handlers` does it for gRPC."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import grpc
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive

from serving.server.http.body import read_body
from serving.server.http.errors import error_body, refusal
from serving.server.security.guard import Guard
from serving.server.services.handlers import REQUEST_ID_KEY, CallObserver, accepted_request_id
from serving.server.telemetry.logs import request_id

JSON = "application/json"
_STOPPING = "the server is stopping"


class HttpContext:
    """What services use of a call's context."""

    def __init__(self, request: Request) -> None:
        self._metadata = tuple(request.headers.items())

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        """The headers, their names in lower case."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """None: HTTP knows no deadlines; a request's own is among its parameters."""
        return None


# Answers a request whose body was read.
Behaviour = Callable[[Request, bytes, HttpContext], Awaitable[Response]]


class HttpCalls:
    """Puts behaviours inside the boundary.

    Args:
        observers: Are told of every call, by method and template of its path.
        draining: Set once the server stops for good; from then on a connection ends with its answer.
        max_body_bytes: Of a request's body.
    """

    def __init__(self, observers: Sequence[CallObserver], *, draining: asyncio.Event, max_body_bytes: int) -> None:
        self._observers = observers
        self._draining = draining
        self._max_body_bytes = max_body_bytes

    def route(self, method: str, path: str, behaviour: Behaviour, guard: Guard, *, name: str = "") -> Route:
        """Makes a route.

        Args:
            method: GET or POST; only the latter's body is read.
            path: Its path, with names of parameters in braces.
            behaviour: Answers.
            guard: Admits calls, before their body is read and again, for good, before they are answered.
            name: What observers know it by, in place of the path.
        """

        async def answer(request: Request) -> Response:
            return await self._answer(f"{method} {name or path}", behaviour, guard, request)

        return Route(path, answer, methods=[method])

    async def no_route(self, request: Request, error: Exception) -> Response:
        """Answers what no route takes: another path, or another method."""
        started = time.perf_counter()
        missing = isinstance(error, HTTPException) and error.status_code == 404
        code = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.UNIMPLEMENTED
        message = "there is nothing at this path" if missing else "this path takes another method"
        headers = dict(getattr(error, "headers", None) or {})
        self._ended("no route", code, started)
        return Response(error_body(message), 404 if missing else 405, headers, JSON)

    async def _answer(self, name: str, behaviour: Behaviour, guard: Guard, request: Request) -> Response:
        started, code = time.perf_counter(), grpc.StatusCode.CANCELLED
        context = HttpContext(request)
        identity = accepted_request_id(request.headers.get(REQUEST_ID_KEY, ""))
        request_id.set(identity)  # also to nothing: a connection's next request may inherit the last one's
        try:
            body = b""
            if request.method == "POST":
                with guard.admit(context):  # and not while a slow client sends
                    pass
                body = await read_body(request, self._max_body_bytes)
            with guard.admit(context):
                response = await _unless_gone(behaviour(request, body, context), request.receive)
            code = grpc.StatusCode.OK
        except ClientDisconnect:
            response = Response()  # to nobody
        except asyncio.CancelledError:  # the end of the grace period
            response = Response(error_body(_STOPPING), 503, media_type=JSON)
        except Exception as error:  # noqa: BLE001 - the outermost boundary
            code, status, headers, told = refusal(error)
            response = Response(told, status, headers, JSON)
        finally:
            self._ended(name, code, started)
        if identity:
            response.headers[REQUEST_ID_KEY] = identity
        if self._draining.is_set():
            response.headers["connection"] = "close"
        return response

    def _ended(self, name: str, code: grpc.StatusCode, started: float) -> None:
        for observer in self._observers:
            observer.call_ended(name, code.name, time.perf_counter() - started)


async def _unless_gone(answer: Awaitable[Response], receive: Receive) -> Response:
    """Awaits an answer, and cancels it when its client goes away.

    Raises:
        starlette.requests.ClientDisconnect: It went.
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
                answering.exception()  # nobody is left to be told


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass  # the rest of a body that nobody asked for
