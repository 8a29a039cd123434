"""The direct way for the most common calls: raw pixels and no options, answered without a task.

A front end that gets calls as bytes may try it first. Everything uncommon is left to the service: encoded images,
options, request ids, unreadable messages. Admission, limits, deadlines, routing, statuses, statistics and metrics are
the same objects as there. `direct_methods` has the methods that can be called so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message

from serving.errors import DigitsError
from serving.inference.request import InferenceResult, QueuedRequest
from serving.rollout.deployment import Deployment
from serving.server.security.admission import AdmissionControl
from serving.server.services.handlers import LOAD_FORMAT_KEY, REQUEST_ID_KEY, Context, Metadata, Trailer, deadline_of
from serving.server.services.message_limits import MAX_OCCURRENCES, MessageLimits
from serving.server.services.open_calls import OpenCalls
from serving.server.services.status import DETAILS_KEY, code_of, status_of
from serving.server.telemetry.calls import CallObserver

# A field takes at least two bytes, so a message below this can't hold one too often.
_SURELY_WITHIN_LIMITS = 2 * MAX_OCCURRENCES

Encode = Callable[[InferenceResult], bytes]


class DirectMethod(Protocol):
    """A method whose common calls can be answered directly."""

    @property
    def name(self) -> str:
        """Full name, `/package.Service/Method`."""

    @property
    def request_type(self) -> type[Message]:
        """The type of its requests, from a generated module."""

    def is_common(self, request: Any) -> bool:
        """Whether a request has raw pixels and no options."""

    def find(self, request: Any) -> Deployment:
        """Finds the deployment that answers a request; raises as the service does."""

    def decode(self, request: Any, deployment: Deployment) -> tuple[npt.NDArray[np.uint8], Encode]:
        """Returns the images of a request, uint8 `[n, height, width, channels]`, and what makes the response.

        Raises:
            InvalidRequest: As the service does.
        """


class Responder(Protocol):
    """Where the answer of one call goes."""

    def respond(self, content: bytes, metadata: Metadata) -> None:
        """Ends the call with a message."""

    def fail(self, code: grpc.StatusCode, message: str, metadata: Metadata) -> None:
        """Ends the call with an error."""


class DirectCalls:
    """Answers the common calls of one method.

    Args:
        method: The method.
        admission: Admits the calls.
        limits: What a message may hold.
        observers: Observe the calls, many at a time.
        open_calls: Counts the calls that have not ended.
        load_report: Makes the load report of a call that asks for one.
    """

    def __init__(
        self,
        method: DirectMethod,
        *,
        admission: AdmissionControl,
        limits: MessageLimits,
        observers: Sequence[CallObserver],
        open_calls: OpenCalls,
        load_report: Trailer,
    ) -> None:
        self._method = method
        self._admission = admission
        self._limits = limits
        self._observers = observers
        self._open_calls = open_calls
        self.load_report = load_report
        self._ended: dict[tuple[str, str, str], list[float]] = {}

    def begin(self, content: bytes, context: Context, responder: Responder) -> DirectCall | None:
        """Begins to answer a call. Returns None, and has done nothing, if the service must do it.

        Args:
            content: The request.
            context: What the front end knows of the call.
            responder: Gets the answer, soon or at once.
        """
        asks_for_load = False
        for key, _ in context.invocation_metadata():
            if key == REQUEST_ID_KEY:
                return None
            asks_for_load |= key == LOAD_FORMAT_KEY
        refusal = request = None
        try:
            self._admission.admit(context)
        except DigitsError as error:
            refusal = error
        else:
            request = self._common_request(content)
            if request is None:
                self._admission.release()
                return None
        self._open_calls.add(context)
        call = DirectCall(self, responder, deadline_of(context), context if asks_for_load else None)
        if refusal is not None:
            call.set_exception(refusal)
            return call
        call.admission = self._admission
        try:
            deployment = self._method.find(request)
            call.route(deployment)
            call.start(*self._method.decode(request, deployment))
        except Exception as error:  # noqa: BLE001 - `status_of` decides what the client gets to know
            call.set_exception(error)
        return call

    def _common_request(self, content: bytes) -> Message | None:
        """Parses a request; None if it is uncommon or unreadable."""
        try:
            if len(content) >= _SURELY_WITHIN_LIMITS:
                self._limits.check(self._method.request_type, content)
            request = self._method.request_type.FromString(content)
        except (DecodeError, DigitsError):
            return None
        return request if self._method.is_common(request) else None

    def ended(self, model: str, version: str, code: str, seconds: float) -> None:
        """Counts the end of a call. The observers hear of it soon, together with others that end now."""
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._report)
        self._ended.setdefault((model, version, code), []).append(seconds)

    def _report(self) -> None:
        ended, self._ended = self._ended, {}
        for which, seconds in ended.items():
            for observer in self._observers:
                observer.calls_ended(self._method.name, *which, seconds)


class DirectCall:
    """A call that is being answered. In the batcher's queue it stands in for a future.

    Args:
        ways: What began it.
        responder: Gets the answer.
        deadline: When the caller stops waiting, by `time.monotonic`.
        asks_for_load: The context of a call that asks for a load report; None of another.

    Attributes:
        admission: Where its place is given back; None if it has none.
    """

    __slots__ = (
        "_asks_for_load",
        "_deadline",
        "_deployment",
        "_encode",
        "_is_counted",
        "_is_done",
        "_queued",
        "_responder",
        "_started",
        "_ways",
        "admission",
    )

    def __init__(
        self, ways: DirectCalls, responder: Responder, deadline: float | None, asks_for_load: Context | None
    ) -> None:
        self._ways = ways
        self._responder = responder
        self._deadline = deadline
        self._asks_for_load = asks_for_load
        self._started = time.perf_counter()
        self._deployment: Deployment | None = None
        self._queued: QueuedRequest | None = None
        self._is_counted = False  # by the deployment's statistics, which begin once a request has been decoded
        self._is_done = False
        self.admission: AdmissionControl | None = None

    def route(self, deployment: Deployment) -> None:
        """Sets the deployment that answers it."""
        self._deployment = deployment

    def start(self, images: npt.NDArray[np.uint8], encode: Encode) -> None:
        """Queues its images; see `Batcher.enqueue` for the errors."""
        assert self._deployment is not None  # noqa: S101
        self._encode = encode
        self._is_counted = True
        self._queued = self._deployment.enqueue(images, self, deadline=self._deadline)

    def done(self) -> bool:
        """See `ResultFuture`."""
        return self._is_done

    def set_result(self, result: InferenceResult) -> None:
        """Answers the call."""
        assert self._deployment is not None  # noqa: S101
        try:
            answer = self._deployment.completed(result, time.perf_counter() - self._started)
            content = self._encode(answer)
        except Exception as error:  # noqa: BLE001 - an error here must not reach the batcher
            self.set_exception(error)
            return
        self._responder.respond(content, self._load_report())
        self._end("OK")

    def set_exception(self, error: Exception) -> None:
        """Ends the call with an error."""
        status = status_of(error)
        code = code_of(status)
        self._responder.fail(code, status.message, (*self._load_report(), (DETAILS_KEY, status.SerializeToString())))
        self._end(code.name)

    def cancel(self) -> None:
        """Ends the call, since nobody waits any more or the server stops."""
        if self._is_done:
            return
        if self._queued is not None and self._deployment is not None:
            self._deployment.drop(self._queued)
        is_late = self._deadline is not None and self._deadline <= time.monotonic()
        code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
        self._responder.fail(code, "", ())
        self._end(code.name)

    def _load_report(self) -> Metadata:
        return () if self._asks_for_load is None else self._ways.load_report(self._asks_for_load)

    def _end(self, code: str) -> None:
        self._is_done = True
        self._queued = None  # they know each other, and garbage of that kind waits for a pause to be collected
        seconds, deployment = time.perf_counter() - self._started, self._deployment
        if self.admission is not None:
            self.admission.release()
        if deployment is None:
            self._ways.ended("", "", code, seconds)
            return
        if self._is_counted and code != "OK":
            deployment.statistics.request_failed(seconds)
        self._ways.ended(deployment.name, str(deployment.version), code, seconds)
