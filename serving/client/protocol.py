"""The conversation with a server, sans I/O: which calls to make next, and what their responses mean.

Models change while calls are made: versions come and go, and a canary gets a share of the calls that name no version.
Yet one version answers a whole classification, with its own label names. So the first request of a batch asks for what
the caller asked for, and all others name the version that answered the first. If that version is unloaded before the
batch ends, or takes images of another size or preparation, the batch is restarted.

Each conversation is a generator. It yields steps; a driver, blocking or not, performs them and sends back the result or
throws `CallFailed`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import grpc

from protos.digits.v1 import digits_pb2
from serving.client.call_errors import CallFailed
from serving.client.classification import Classification
from serving.client.model_cache import ModelCache
from serving.client.request_batch import RequestBatch, version_request

_T = TypeVar("_T")

# Each restart needs another change of the model, so more than a few mean that something else is wrong.
_MAX_RESTARTS = 4


@dataclass(frozen=True, kw_only=True)
class WatchHealth:
    """A step: watch the server's health. The result is whether it reported SERVING before the watch ended."""


@dataclass(frozen=True, kw_only=True)
class GetModel:
    """A step: one GetModel call. The result is its response."""

    request: digits_pb2.GetModelRequest


@dataclass(frozen=True, kw_only=True)
class Classify:
    """A step: Classify calls, several at a time.

    Attributes:
        requests: The requests, made one by one.
        receive: Takes each response, in the order of the requests.
        reads: Whether making a request reads or decodes files.
    """

    requests: Iterator[digits_pb2.ClassifyRequest]
    receive: Callable[[digits_pb2.ClassifyResponse], None]
    reads: bool


Step = WatchHealth | GetModel | Classify
Steps = Generator[Step, Any, _T]
# Makes a batch from the model that its requests are made for and the version that they ask for.
MakeBatch = Callable[[digits_pb2.GetModelResponse, digits_pb2.GetModelRequest], RequestBatch]


def run(steps: Steps[_T], perform: Callable[[Step], Any]) -> _T:
    """Drives a conversation with a function that performs a step and blocks until it is done."""
    resume = partial(next, steps)
    while True:
        try:
            step = resume()
        except StopIteration as end:
            result: _T = end.value
            return result
        try:
            resume = partial(steps.send, perform(step))
        except CallFailed as error:
            resume = partial(steps.throw, error)


def wait_until_serving() -> Steps[None]:
    """Waits for the server to report SERVING.

    Raises:
        CallFailed: The server stopped first, or the time ran out.
    """
    if not (yield WatchHealth()):
        raise CallFailed(grpc.StatusCode.UNAVAILABLE, "the server stopped reporting its health")


def get_model(request: digits_pb2.GetModelRequest, cache: ModelCache) -> Steps[digits_pb2.GetModelResponse]:
    """Gets the description of a model, for which the next requests are then made."""
    model: digits_pb2.GetModelResponse = yield GetModel(request=request)
    cache.add(model)
    cache.current = model
    return model


def classify(make_batch: MakeBatch, request: digits_pb2.GetModelRequest, cache: ModelCache) -> Steps[Classification]:
    """Classifies images with one version of a model.

    Args:
        make_batch: Makes the batch, again for each restart.
        request: The model and version that the caller asks for.
        cache: The known versions of the model.

    Raises:
        TypeError: The images have a type that can't be sent.
        ValueError: The images do not have the size that the model takes now.
        CallFailed: A request failed, and would fail again.
    """
    try:
        return (yield from _classify(make_batch, request, cache))
    except CallFailed:
        cache.current = None  # the model may have changed, so ask again
        raise


def _classify(make_batch: MakeBatch, request: digits_pb2.GetModelRequest, cache: ModelCache) -> Steps[Classification]:
    model, fresh = cache.current, False  # fresh: the server described the model during this call
    if model is None:
        model, fresh = (yield from get_model(request, cache)), True
    wanted, attempts, batch = request, 0, None
    while True:
        if batch is not None and not batch.repeatable:
            message = "the model changed, and images that were already sent can't be read again"
            raise CallFailed(grpc.StatusCode.ABORTED, message)
        try:
            batch = make_batch(model, wanted)
        except ValueError:
            if fresh:
                raise
            model, fresh = (yield from get_model(request, cache)), True
            continue
        attempts += 1
        requests = batch.requests()
        try:
            first = requests if request.model_version else islice(requests, 1)
            yield Classify(requests=first, receive=batch.add, reads=batch.reads)
            if batch.answered_by is None:
                return batch.answer()
            answering = cache.find(*batch.answered_by)
            if answering is None:
                name, version = batch.answered_by
                named = digits_pb2.GetModelRequest(model_name=name, model_version=version)
                answering = yield from get_model(named, cache)
            cache.current = answering
            if batch.use_version(answering):
                yield Classify(requests=requests, receive=batch.add, reads=batch.reads)
                return batch.answer()
            model, fresh, wanted = answering, False, version_request(answering)
        except CallFailed as error:
            gone = error.code is grpc.StatusCode.NOT_FOUND  # if what the caller asks for is gone, GetModel fails below
            refused = _refuses_images(error) and not (fresh and wanted.model_version)
            if not (gone or refused) or attempts > _MAX_RESTARTS:
                raise
            model, fresh = (yield from get_model(request, cache)), True
            # After a refusal, name the version that was just described: the canary might refuse again.
            wanted = version_request(model) if refused else request


def _refuses_images(error: CallFailed) -> bool:
    """Whether the server refused the images themselves, as it does if they were made for another version."""
    return any(field.startswith(("raw_images", "encoded_images")) for field, _ in error.violations)
