"""The methods whose common calls are answered directly; see `direct_calls`."""

from __future__ import annotations

import time
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from protos.digits.v1 import digits_pb2
from protos.inference import inference_pb2
from serving.inference.request import InferenceResult
from serving.rollout.deployment import Deployment
from serving.rollout.deployments import Deployments
from serving.server.services.answer_bytes import AnswerBytes
from serving.server.services.digits_codec import raw_images
from serving.server.services.digits_service import DigitClassifierService
from serving.server.services.direct_calls import Encode
from serving.server.services.oip_codec import decode_request, encode_response
from serving.server.services.oip_service import InferenceService


class Classify:
    """`Classify` of `digits.v1.DigitClassifierService`.

    Args:
        deployments: The deployments to choose from.
    """

    name = f"/{DigitClassifierService.DESCRIPTOR.full_name}/Classify"
    request_type = digits_pb2.ClassifyRequest

    def __init__(self, deployments: Deployments) -> None:
        self._deployments = deployments
        self._answers: WeakKeyDictionary[Deployment, AnswerBytes] = WeakKeyDictionary()

    def is_common(self, request: digits_pb2.ClassifyRequest) -> bool:
        """See `DirectMethod`."""
        return request.HasField("raw_images") and not (
            request.top_k
            or request.explain
            or request.only_digits
            or request.per_image_errors
            or request.HasField("min_confidence")
        )

    def find(self, request: digits_pb2.ClassifyRequest) -> Deployment:
        """See `DirectMethod`."""
        return self._deployments.find(request.model_name, request.model_version, request.model_label)

    def decode(
        self, request: digits_pb2.ClassifyRequest, deployment: Deployment
    ) -> tuple[npt.NDArray[np.uint8], Encode]:
        """See `DirectMethod`."""
        answers = self._answers.get(deployment)
        if answers is None:
            answers = self._answers[deployment] = AnswerBytes(deployment)
        encode = partial(answers.encode, include_probabilities=request.include_probabilities)
        return raw_images(request, deployment), encode


class ModelInfer:
    """`ModelInfer` of the Open Inference Protocol.

    Args:
        service: The service.
    """

    name = f"/{InferenceService.DESCRIPTOR.full_name}/ModelInfer"
    request_type = inference_pb2.ModelInferRequest

    def __init__(self, service: InferenceService) -> None:
        self._service = service

    def is_common(self, request: inference_pb2.ModelInferRequest) -> bool:
        """See `DirectMethod`. A parameter may be a timeout."""
        return len(request.raw_input_contents) == 1 and not request.parameters

    def find(self, request: inference_pb2.ModelInferRequest) -> Deployment:
        """See `DirectMethod`."""
        return self._service.find(request.model_name, request.model_version, route=True)

    def decode(
        self, request: inference_pb2.ModelInferRequest, deployment: Deployment
    ) -> tuple[npt.NDArray[np.uint8], Encode]:
        """See `DirectMethod`."""
        started = time.perf_counter()
        decoded = decode_request(request, deployment)
        decoded_s = time.perf_counter() - started

        def encode(answer: InferenceResult) -> bytes:
            started = time.perf_counter()
            response = encode_response(answer, decoded.outputs, deployment, request_id=request.id)
            deployment.statistics.converted(decoded_s, time.perf_counter() - started)
            return response.SerializeToString()

        return decoded.images, encode
