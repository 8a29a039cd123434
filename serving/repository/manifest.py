"""The manifest: what a model version is, and the proof that it computes the same as the trained model.

It is the file `manifest.json` next to `model.onnx`. It protects integrity, not authenticity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from serving.errors import ModelRejected
from serving.repository.json_document import OPTIONAL, parse_json
from serving.repository.precision import INT8, SHA256, Precision, PrecisionFigures

FORMAT = 1
PREPARATIONS = ("mnist", "resize")

_MAX_SIDE = 16_384


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """The images that the network takes.

    Attributes:
        height: Rows, in pixels.
        width: Columns, in pixels.
        channels: 1 for gray, 3 for RGB.
        preparation: How other images are converted: `mnist` (20 x 20 box, centre of mass) or `resize`.
    """

    height: int
    width: int
    channels: int
    preparation: str

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= _MAX_SIDE:
                raise ModelRejected(f"manifest: input.{name} must be between 1 and {_MAX_SIDE}")
        if self.channels not in (1, 3):
            raise ModelRejected("manifest: input.channels must be 1 or 3")
        if self.preparation not in PREPARATIONS:
            raise ModelRejected(f"manifest: input.preparation must be one of {', '.join(PREPARATIONS)}")

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
    """What the parity gate measured: the network as it was made compared with the engine on one execution provider.

    Attributes:
        passed: Whether every limit held.
        images: Number of images compared.
        batch_sizes: Batch sizes at which each image was compared.
        labels_equal: Number of images that both label the same at every batch size.
        logits_max_difference: Largest absolute difference of a logit.
        logits_mean_difference: Mean absolute difference of the logits.
        probabilities_max_difference: Largest absolute difference of a probability.
        probabilities_mean_difference: Mean absolute difference of the probabilities.
        logits_limit: Limit of the largest difference of a logit.
        probabilities_limit: Limit of the largest difference of a probability.
        onnxruntime: Release of ONNX Runtime that was used.
        verified: Time of the measurement, in ISO 8601.
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
    """Share of the test images that are labelled correctly, 0 to 1.

    Attributes:
        keras: By Keras; of an imported network by the untouched network, whatever ran it.
        onnx: By the engine that serves.
    """

    keras: float
    onnx: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become probabilities: softmax(logits / temperature), computed inside the graph.

    Attributes:
        temperature: 1 if nothing was fitted.
        images: Number of validation images that the temperature was fitted on.
        error_before: Expected calibration error on the test images with a temperature of 1, 0 to 1.
        error_after: The same with this temperature.
    """

    temperature: float = 1.0
    images: int = 0
    error_before: float = 0.0
    error_after: float = 0.0

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 100:
            raise ModelRejected("manifest: calibration.temperature must be between 0.01 and 100")


@dataclass(frozen=True, kw_only=True)
class NoDigit:
    """How the graph's output `no_digit` was proven: non-digits are caught, and digits are kept.

    Attributes:
        threshold: An image whose `no_digit` is above this is called no digit.
        caught: For each kind of non-digits, the share that is above the threshold, 0 to 1.
        kept: For each source of digits, the share that is not.
    """

    threshold: float
    caught: Mapping[str, float]
    kept: Mapping[str, float]

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ModelRejected("manifest: no_digit.threshold must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ValidationAnswers:
    """What the network answers on the validation images, to compare with what it answers in service.

    Attributes:
        images: Their number.
        labels: Share of each label among the answers, 0 to 1, in the order of the outputs.
        confidence: Mean probability of the most probable label.
        no_digit: Share of the images that are called no digit; None for a model without that output.
    """

    images: int
    labels: tuple[float, ...]
    confidence: float
    no_digit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything recorded about one model version.

    Attributes:
        model_name: Name of the model in the repository.
        sha256: Digest of `model.onnx`, in hexadecimal.
        labels: Name of each class, in the order of the outputs.
        input: The images that the network takes.
        training: How it was trained: architecture, recipe, seed, data and its digest, epochs, parameters. For an
            imported network, what is known of its origin.
        accuracy: Accuracy on the test images, of Keras and of ONNX Runtime; None if no labels were known.
        parity: The gate's figures for each execution provider that was verified.
        versions: Releases of the tools that made the model.
        created: Time of the export, in ISO 8601.
        format: Version of this file format.
        calibration: How its probabilities were calibrated; older manifests have no such field.
        no_digit: The proof of the output `no_digit`; None for a model without that output.
        validation: What it answers on the validation images; None if there were none, and in older manifests.
        precisions: Other precisions of it by name, `int8`; none in older manifests.
    """

    model_name: str
    sha256: str
    labels: tuple[str, ...]
    input: InputSpec
    training: Mapping[str, Any]
    accuracy: Accuracy | None
    parity: Mapping[str, ParityFigures]
    versions: Mapping[str, str]
    created: str
    format: int = FORMAT
    calibration: Calibration = field(default_factory=Calibration, metadata=OPTIONAL)
    no_digit: NoDigit | None = field(default=None, metadata=OPTIONAL)
    validation: ValidationAnswers | None = field(default=None, metadata=OPTIONAL)
    precisions: Mapping[str, Precision] = field(default_factory=dict, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ModelRejected(f"manifest: format {self.format} is not supported, only {FORMAT}")
        if not SHA256.fullmatch(self.sha256):
            raise ModelRejected("manifest: sha256 is not a SHA-256 digest in hexadecimal")
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ModelRejected("manifest: labels must be at least two, and all different")
        for name in self.precisions:
            if name != INT8:
                raise ModelRejected(f"manifest: precisions: {name[:128]!r} is unknown, only {INT8} is known")

    @property
    def proven(self) -> bool:
        """Whether the parity gate passed on at least one provider and failed on none."""
        return bool(self.parity) and all(figures.passed for figures in self.parity.values())

    def with_parity(self, provider: str, figures: ParityFigures) -> Manifest:
        """Returns a copy with the figures of one provider added or replaced."""
        return replace(self, parity={**self.parity, provider: figures})

    def with_precision(self, name: str, sha256: str, kernels: str, figures: PrecisionFigures) -> Manifest:
        """Returns a copy with a precision added, or with its figures for a processor added or replaced."""
        known = self.precisions.get(name)
        proven = known.proven if known and known.sha256 == sha256 else {}
        precision = Precision(sha256=sha256, proven={**proven, kernels: figures})
        return replace(self, precisions={**self.precisions, name: precision})

    def to_json(self) -> str:
        """Returns the text of `manifest.json`. Older servers refuse fields that they don't know, so few are written."""
        document = asdict(self)
        if not self.precisions:
            del document["precisions"]
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parses the text of `manifest.json`.

        Raises:
            ModelRejected: The text is not JSON, or a field is missing, unknown or wrong; the message names it.
        """
        return parse_json(cls, text, "manifest")
