"""What a client says to a server to have images classified, and what it makes of the answers. Knows no channel.

Models change while calls are made: versions come and go, one on trial gets a share of the calls that name none. Yet a
classification is of exactly one version, and its label names are that version's. So the first request of a batch goes
out as the caller wants it, and all others name the version that answered it; where that one is gone meanwhile, or takes
images otherwise than was thought, the batch is begun again.

A conversation is a generator: it yields steps, and whoever carries them out, blocking or not, sends back what came of
them or throws `CallFailed`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import grpc

from protos.digits.v1 import digits_pb2
from serving.client.call_errors import CallFailed
from serving.client.classification import Classification
from serving.client.model_cache import ModelCache
from serving.client.request_batch import RequestBatch, selection_of

_T = TypeVar("_T")

# How often a batch is begun again; each time, a model must have changed since the time before.
_NEW_BEGINNINGS = 4


@dataclass(frozen=True, kw_only=True)
class Describe:
    """The step of a GetModel call. Its response is to be sent back."""

    request: digits_pb2.GetModelRequest


@dataclass(frozen=True, kw_only=True)
class Classify:
    """The step of Classify calls, several at a time.

    Attributes:
        requests: Those that are to be sent; taken one by one.
        take: Is to get each response, in the order of the requests.
        reads: Whether taking a request reads or decodes files.
    """

    requests: Iterator[digits_pb2.ClassifyRequest]
    take: Callable[[digits_pb2.ClassifyResponse], None]
    reads: bool


Steps = Generator[Describe | Classify, Any, _T]
# Makes a batch of what the server said of its model, and of what the batch's requests are to ask for.
MakeBatch = Callable[[digits_pb2.GetModelResponse, digits_pb2.GetModelRequest], RequestBatch]


def description(selection: digits_pb2.GetModelRequest, known: ModelCache) -> Steps[digits_pb2.GetModelResponse]:
    """Asks for the description of a model, which is what the next requests are made for."""
    model: digits_pb2.GetModelResponse = yield Describe(request=selection)
    known.add(model)
    known.current = model
    return model


def classification(
    make_batch: MakeBatch, selection: digits_pb2.GetModelRequest, known: ModelCache
) -> Steps[Classification]:
    """Has images classified by one version.

    Args:
        make_batch: Makes the batch; again for each new beginning.
        selection: What the caller asks for.
        known: What is known of the model's versions.

    Raises:
        TypeError: The images can't be sent.
        ValueError: They have not the size that the model takes, now.
        CallFailed: A request failed, and would again.
    """
    try:
        return (yield from _classification(make_batch, selection, known))
    except CallFailed:
        known.current = None  # perhaps since it has changed
        raise


def _classification(
    make_batch: MakeBatch, selection: digits_pb2.GetModelRequest, known: ModelCache
) -> Steps[Classification]:
    model, current = known.current, False  # whether the description is what the server says now
    if model is None:
        model, current = (yield from description(selection, known)), True
    wanted, beginnings, batch = selection, 0, None  # what the next request asks for; how often a batch was begun
    while True:
        if batch is not None and not batch.repeatable:
            lost = "the model changed meanwhile, and images that were sent before can't be read again"
            raise CallFailed(grpc.StatusCode.ABORTED, lost)
        try:
            batch = make_batch(model, wanted)
        except ValueError:
            if current:
                raise
            model, current = (yield from description(selection, known)), True
            continue
        beginnings += 1
        requests = batch.requests()
        try:
            first = requests if selection.model_version else islice(requests, 1)
            yield Classify(requests=first, take=batch.add, reads=batch.reads)
            if batch.answered_by is None:
                return batch.answer()
            answering = known.find(*batch.answered_by)
            if answering is None:
                name, version = batch.answered_by
                named = digits_pb2.GetModelRequest(model_name=name, model_version=version)
                answering = yield from description(named, known)
            known.current = answering
            if batch.settle(answering):
                yield Classify(requests=requests, take=batch.add, reads=batch.reads)
                return batch.answer()
            model, current, wanted = answering, False, selection_of(answering)
        except CallFailed as error:
            gone = error.code is grpc.StatusCode.NOT_FOUND  # what the caller asks for may be too: that is told below
            refused = _refuses_images(error) and not (current and wanted.model_version)
            if not (gone or refused) or beginnings > _NEW_BEGINNINGS:
                raise
            model, current = (yield from description(selection, known)), True
            # After a refusal the version that was just described is named, or one on trial might refuse again.
            wanted = selection_of(model) if refused else selection


def _refuses_images(error: CallFailed) -> bool:
    """Whether a server refused images that were sent as another description of its model asks for."""
    return any(field.startswith(("raw_images", "encoded_images")) for field, _ in error.violations)
