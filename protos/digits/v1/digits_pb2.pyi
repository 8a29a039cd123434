from google.protobuf import any_pb2 as _any_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_STATUS_UNSPECIFIED: _ClassVar[ImageStatus]
    IMAGE_STATUS_NO_INK: _ClassVar[ImageStatus]
    IMAGE_STATUS_SEVERAL_DIGITS: _ClassVar[ImageStatus]
    IMAGE_STATUS_NO_DIGIT: _ClassVar[ImageStatus]
IMAGE_STATUS_UNSPECIFIED: ImageStatus
IMAGE_STATUS_NO_INK: ImageStatus
IMAGE_STATUS_SEVERAL_DIGITS: ImageStatus
IMAGE_STATUS_NO_DIGIT: ImageStatus

class ClassifyRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "model_label", "raw_images", "encoded_images", "top_k", "include_probabilities", "per_image_errors", "explain", "min_confidence", "only_digits")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_LABEL_FIELD_NUMBER: _ClassVar[int]
    RAW_IMAGES_FIELD_NUMBER: _ClassVar[int]
    ENCODED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    PER_IMAGE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    MIN_CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ONLY_DIGITS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: int
    model_label: str
    raw_images: RawImages
    encoded_images: EncodedImages
    top_k: int
    include_probabilities: bool
    per_image_errors: bool
    explain: bool
    min_confidence: float
    only_digits: bool
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., model_label: _Optional[str] = ..., raw_images: _Optional[_Union[RawImages, _Mapping]] = ..., encoded_images: _Optional[_Union[EncodedImages, _Mapping]] = ..., top_k: _Optional[int] = ..., include_probabilities: bool = ..., per_image_errors: bool = ..., explain: bool = ..., min_confidence: _Optional[float] = ..., only_digits: bool = ...) -> None: ...

class RawImages(_message.Message):
    __slots__ = ("pixels", "count", "height", "width", "channels")
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    pixels: bytes
    count: int
    height: int
    width: int
    channels: int
    def __init__(self, pixels: _Optional[bytes] = ..., count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class EncodedImages(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, images: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("labels", "confidences", "probabilities", "top_labels", "top_confidences", "model_name", "model_version", "queue_time_us", "inference_time_us", "errors", "preparations", "statuses", "no_digit")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    TOP_LABELS_FIELD_NUMBER: _ClassVar[int]
    TOP_CONFIDENCES_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_US_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_TIME_US_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    PREPARATIONS_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    NO_DIGIT_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedScalarFieldContainer[int]
    confidences: _containers.RepeatedScalarFieldContainer[float]
    probabilities: _containers.RepeatedScalarFieldContainer[float]
    top_labels: _containers.RepeatedScalarFieldContainer[int]
    top_confidences: _containers.RepeatedScalarFieldContainer[float]
    model_name: str
    model_version: int
    queue_time_us: int
    inference_time_us: int
    errors: _containers.RepeatedCompositeFieldContainer[ImageError]
    preparations: _containers.RepeatedCompositeFieldContainer[ImagePreparation]
    statuses: _containers.RepeatedScalarFieldContainer[ImageStatus]
    no_digit: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, labels: _Optional[_Iterable[int]] = ..., confidences: _Optional[_Iterable[float]] = ..., probabilities: _Optional[_Iterable[float]] = ..., top_labels: _Optional[_Iterable[int]] = ..., top_confidences: _Optional[_Iterable[float]] = ..., model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., queue_time_us: _Optional[int] = ..., inference_time_us: _Optional[int] = ..., errors: _Optional[_Iterable[_Union[ImageError, _Mapping]]] = ..., preparations: _Optional[_Iterable[_Union[ImagePreparation, _Mapping]]] = ..., statuses: _Optional[_Iterable[_Union[ImageStatus, str]]] = ..., no_digit: _Optional[_Iterable[float]] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class ImageError(_message.Message):
    __slots__ = ("index", "status")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    index: int
    status: Status
    def __init__(self, index: _Optional[int] = ..., status: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class ImagePreparation(_message.Message):
    __slots__ = ("width", "height", "steps", "pixels")
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    width: int
    height: int
    steps: _containers.RepeatedScalarFieldContainer[str]
    pixels: bytes
    def __init__(self, width: _Optional[int] = ..., height: _Optional[int] = ..., steps: _Optional[_Iterable[str]] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: ClassifyRequest
    def __init__(self, request: _Optional[_Union[ClassifyRequest, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: ClassifyResponse
    error: Status
    def __init__(self, response: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., error: _Optional[_Union[Status, _Mapping]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model_name", "model_version", "model_label")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MODEL_LABEL_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: int
    model_label: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., model_label: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model_name", "model_version", "labels", "height", "width", "channels", "max_images_per_request", "sha256", "execution_provider", "test_accuracy", "parity_max_difference", "temperature", "preparation", "max_message_bytes", "max_image_pixels", "versions", "no_digit_threshold", "precision")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_PROVIDER_FIELD_NUMBER: _ClassVar[int]
    TEST_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    PARITY_MAX_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    PREPARATION_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NO_DIGIT_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    model_version: int
    labels: _containers.RepeatedScalarFieldContainer[str]
    height: int
    width: int
    channels: int
    max_images_per_request: int
    sha256: str
    execution_provider: str
    test_accuracy: float
    parity_max_difference: float
    temperature: float
    preparation: str
    max_message_bytes: int
    max_image_pixels: int
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    no_digit_threshold: float
    precision: str
    def __init__(self, model_name: _Optional[str] = ..., model_version: _Optional[int] = ..., labels: _Optional[_Iterable[str]] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., max_images_per_request: _Optional[int] = ..., sha256: _Optional[str] = ..., execution_provider: _Optional[str] = ..., test_accuracy: _Optional[float] = ..., parity_max_difference: _Optional[float] = ..., temperature: _Optional[float] = ..., preparation: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., no_digit_threshold: _Optional[float] = ..., precision: _Optional[str] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "label", "traffic_share", "refused_because")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_SHARE_FIELD_NUMBER: _ClassVar[int]
    REFUSED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    version: int
    label: str
    traffic_share: float
    refused_because: str
    def __init__(self, version: _Optional[int] = ..., label: _Optional[str] = ..., traffic_share: _Optional[float] = ..., refused_because: _Optional[str] = ...) -> None: ...
