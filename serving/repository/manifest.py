"""The manifest: what a version of a model is, and the proof that it computes what was trained.

It lies beside `model.onnx` as `manifest.json` and protects integrity, not authenticity.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serving.errors import ModelRejected

FORMAT = 1
PREPARATIONS = ("mnist", "resize")

_MAX_SIDE = 16_384
_MAX_NUMBER = 2**62
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """What the network takes.

    Attributes:
        height: Rows, in pixels.
        width: Columns, in pixels.
        channels: 1 for gray, 3 for red, green, blue.
        preparation: How other images are made into such: `mnist` (20 x 20 box, centre of mass) or `resize`.
    """

    height: int
    width: int
    channels: int
    preparation: str

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= _MAX_SIDE:
                raise ModelRejected(f"manifest: input.{name} must lie between 1 and {_MAX_SIDE}")
        if self.channels not in (1, 3):
            raise ModelRejected("manifest: input.channels must be 1 or 3")
        if self.preparation not in PREPARATIONS:
            raise ModelRejected(f"manifest: input.preparation is none of {', '.join(PREPARATIONS)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.height, self.width, self.channels

    @property
    def image_bytes(self) -> int:
        """Bytes of one raw image."""
        return self.height * self.width * self.channels


@dataclass(frozen=True, kw_only=True)
class ParityFigures:
    """What the parity gate measured, Keras against the engine on one execution provider.

    Attributes:
        passed: Whether every limit held.
        images: Number of images compared.
        batch_sizes: Batch sizes at which each image was compared.
        labels_equal: Images on which both give the same label, at every batch size.
        logits_max_difference: Largest absolute difference of a logit.
        logits_mean_difference: Mean absolute difference of the logits.
        probabilities_max_difference: Largest absolute difference of a probability.
        probabilities_mean_difference: Mean absolute difference of the probabilities.
        logits_limit: Limit for the largest difference of a logit.
        probabilities_limit: Limit for the largest difference of a probability.
        onnxruntime: Release of ONNX Runtime that was measured.
        verified: When, in ISO 8601.
    """

    passed: bool
    images: int
    batch_sizes: tuple[int, ...]
    labels_equal: int
    logits_max_difference: float
    logits_mean_difference: float
    probabilities_max_difference: float
    probabilities_mean_difference: float
    logits_limit: float
    probabilities_limit: float
    onnxruntime: str
    verified: str


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of the test images that are labelled right, 0 to 1, by both sides of the gate."""

    keras: float
    onnx: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become probabilities: softmax(logits / temperature), which is part of the graph.

    Attributes:
        temperature: 1 where nothing was fitted.
        images: Number of validation images that it was fitted on.
        error_before: Expected calibration error on the test images with a temperature of 1, 0 to 1.
        error_after: The same with this temperature.
    """

    temperature: float = 1.0
    images: int = 0
    error_before: float = 0.0
    error_after: float = 0.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 100:
            raise ModelRejected("manifest: calibration.temperature must lie between 0.01 and 100")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is recorded about one version of a model.

    Attributes:
        model_name: Name of the model in the repository.
        sha256: Digest of `model.onnx`, in hexadecimal.
        labels: Name of each class, in the order of the outputs.
        input: What the network takes.
        training: How it was trained: architecture, recipe, seed, data and its digest, epochs, parameters.
        accuracy: On the test images, by Keras and by ONNX Runtime.
        parity: The gate's figures for each execution provider that was verified.
        versions: Releases of the tools that made the file.
        created: When, in ISO 8601.
        calibration: What its probabilities were made with; absent in manifests from before there was any.
    """

    model_name: str
    sha256: str
    labels: tuple[str, ...]
    input: InputSpec
    training: Mapping[str, Any]
    accuracy: Accuracy
    parity: Mapping[str, ParityFigures]
    versions: Mapping[str, str]
    created: str
    format: int = field(default=FORMAT)
    calibration: Calibration = field(default_factory=Calibration)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ModelRejected(f"manifest: format {self.format} is not known here, only {FORMAT}")
        if not _SHA256.fullmatch(self.sha256):
            raise ModelRejected("manifest: sha256 is no SHA-256 digest in hexadecimal")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ModelRejected("manifest: labels must be at least two, each once")

    @property
    def proven(self) -> bool:
        """Whether the gate passed on some provider and failed on none."""
        return bool(self.parity) and all(figures.passed for figures in self.parity.values())

    def with_parity(self, provider: str, figures: ParityFigures) -> Manifest:
        """The same manifest with the figures for one more provider, or newer ones."""
        return replace(self, parity={**self.parity, provider: figures})

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Reads `manifest.json`.

        Raises:
            ModelRejected: It is no JSON, or a field is missing, unknown or of the wrong type; the message names it.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelRejected("manifest: not JSON", detail=str(error)) from error
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ModelRejected("manifest: holds half of a surrogate pair, which is no text") from error
        manifest: Manifest = _build(cls, document, "manifest")
        return manifest


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "tuple[int, ...]": (list,),
    "tuple[str, ...]": (list,),
    "Mapping[str, Any]": (dict,),
    "Mapping[str, str]": (dict,),
    "Mapping[str, ParityFigures]": (dict,),
}
_NESTED = {"InputSpec": InputSpec, "Accuracy": Accuracy, "Calibration": Calibration}
# Fields that older manifests lack.
_OPTIONAL = {"calibration"}
_ITEMS: dict[str, type] = {"tuple[int, ...]": int, "tuple[str, ...]": str}


def _build(cls: Any, document: Any, where: str) -> Any:
    """Makes a dataclass of this module from parsed JSON, checking every field's presence and type."""
    if not isinstance(document, dict):
        raise ModelRejected(f"{where}: must be an object")
    annotations = cls.__annotations__
    for name in annotations.keys() - document.keys() - _OPTIONAL:
        raise ModelRejected(f"{where}: {name} is missing")
    for name in document.keys() - annotations.keys():
        raise ModelRejected(f"{where}: {name} is not known here")
    return cls(**{name: _value(annotations[name], value, f"{where}: {name}") for name, value in document.items()})


def _value(annotation: str, value: Any, where: str) -> Any:
    if annotation in _NESTED:
        return _build(_NESTED[annotation], value, where)
    kinds: Any = _TYPES[annotation]
    # bool is a subclass of int, and true is no number in JSON
    if not isinstance(value, kinds) or (isinstance(value, bool) and annotation != "bool"):
        raise ModelRejected(f"{where} must be {kinds[0].__name__}")
    if annotation == "float" and not (isinstance(value, int) or math.isfinite(value)):
        raise ModelRejected(f"{where} must be finite")
    if annotation in ("int", "float") and not abs(value) <= _MAX_NUMBER:
        raise ModelRejected(f"{where} is too large")
    if annotation == "Mapping[str, ParityFigures]":
        return {provider: _build(ParityFigures, figures, f"{where}.{provider}") for provider, figures in value.items()}
    if annotation in _ITEMS:
        if not all(type(item) is _ITEMS[annotation] for item in value):
            raise ModelRejected(f"{where} must hold only {_ITEMS[annotation].__name__}")
        return tuple(value)
    return value
