"""The blocking client of `digits.v1`."""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from protos.digits.v1 import digits_pb2
from serving.client import protocol
from serving.client.base_client import REQUESTS_IN_FLIGHT, SERVING, BaseClient, Connection, remaining
from serving.client.classification import Classification
from serving.client.protocol import GetModel, Step, Steps, WatchHealth
from serving.client.retry import HealthWait, pause_before_retry

_T = TypeVar("_T")


class Client(BaseClient[Classification, digits_pb2.GetModelResponse, None]):
    """Calls a server and blocks. Safe to use from several threads. See `BaseClient` for arguments and methods."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._connection.channel.close()

    def _open(self) -> None:
        self._connection = Connection(self._endpoint.channel())

    def _run(self, steps: Steps[_T], timeout_s: float) -> _T:
        return protocol.run(steps, partial(self._perform, deadline=time.monotonic() + timeout_s))

    def _perform(self, step: Step, deadline: float) -> Any:
        if isinstance(step, WatchHealth):
            return self._is_serving(deadline)
        if isinstance(step, GetModel):
            method = self._connection.stub.GetModel
            return self._response(self._start(method, step.request, deadline), method, step.request, deadline)
        method = self._connection.stub.Classify
        in_flight: deque[tuple[Any, Any, digits_pb2.ClassifyRequest]] = deque()
        try:
            for request in step.requests:
                if len(in_flight) == REQUESTS_IN_FLIGHT:
                    step.receive(self._response(*in_flight.popleft(), deadline))
                in_flight.append((self._start(method, request, deadline), method, request))
            while in_flight:
                step.receive(self._response(*in_flight.popleft(), deadline))
        finally:
            for call, _, _ in in_flight:
                call.cancel()
        return None

    def _is_serving(self, deadline: float) -> bool:
        wait = HealthWait()
        while True:
            try:
                for health in self._connection.watch_health(b"", timeout=remaining(deadline), metadata=self._metadata):
                    wait.answered = True
                    if health == SERVING:
                        return True
                return False
            except grpc.RpcError as error:
                time.sleep(wait.pause_s(error, remaining(deadline)))

    def _start(self, method: Any, request: Message, deadline: float) -> Any:
        return method.future(request, timeout=remaining(deadline), metadata=self._metadata)

    def _response(self, call: Any, method: Any, request: Message, deadline: float) -> Any:
        """Waits for the response to a call, and calls again if the server asks for it."""
        while True:
            try:
                return call.result()
            except grpc.RpcError as error:
                time.sleep(pause_before_retry(error, remaining(deadline)))
            call = self._start(method, request, deadline)
