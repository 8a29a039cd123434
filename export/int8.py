"""A trained network in int8: quantised on its training images, then compared with float32 on its test images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.errors import UnusableModel
from export.precision_gate import GateImages, PrecisionReport, check_precision, precision_lines
from export.quantisation.quantise import quantise
from export.trained_model import TrainedModel
from serving.config import EngineConfig
from serving.inference.engine import Engine
from serving.inference.processors import int8_kernels
from serving.repository.manifest import Manifest
from serving.repository.precision import INT8
from serving.repository.repository import Repository, StoredModel
from training.datasets import Dataset
from training.non_digits import draw_non_digits

_NON_DIGITS = 2_000
_SEED = 16


@dataclass(frozen=True, kw_only=True)
class Int8Model:
    """A model in int8 and what the gate says of it.

    Attributes:
        content: The bytes of `model.int8.onnx`.
        report: The report of the gate.
        kernels: What this processor computed it with, the best of `int8_kernels`.
    """

    content: bytes
    report: PrecisionReport
    kernels: str

    @property
    def lines(self) -> list[str]:
        """The report as text."""
        return precision_lines(self.report, precision=INT8, kernels=self.kernels)

    def refusal(self, consequence: str) -> str | None:
        """Why it did not pass, and what follows from that; None if it passed."""
        return f"int8 not proven: {'; '.join(self.report.problems)}; {consequence}" if self.report.problems else None

    def described_in(self, manifest: Manifest) -> Manifest:
        """Returns the manifest with this proof."""
        digest = hashlib.sha256(self.content).hexdigest()
        return manifest.with_precision(INT8, digest, self.kernels, self.report.figures)


def make_int8(trained: TrainedModel, data: Dataset, manifest: Manifest, exact: bytes) -> Int8Model:
    """Quantises a model, and compares it with float32 on this processor.

    Args:
        trained: The network, and its record with the number of images that it was trained on.
        data: The data that it was trained on.
        manifest: Its manifest.
        exact: The bytes of its `model.onnx`.

    Raises:
        UnusableModel: It has nothing to quantise.
        DigitsError: The engine refuses a file.
    """
    fitted = trained.record["data"].get("train_images")
    images = data.train_images[: fitted if isinstance(fitted, int) and fitted > 0 else None]
    return _proven(data, manifest, exact, quantise(exact, images))


def add_int8(
    trained: TrainedModel, data: Dataset, repository: Repository, version: int, manifest: Manifest
) -> Int8Model | None:
    """Adds int8 to a version that was published without, if the gate passes.

    Returns:
        The model in int8; None if the version has one already.

    Raises:
        DigitsError: As for `make_int8`, or the repository can't be written.
    """
    if INT8 in manifest.precisions:
        return None
    stored = repository.load(manifest.model_name, version)
    int8 = make_int8(trained, data, manifest, stored.content)
    if not int8.report.problems:
        repository.add_precision(version, int8.described_in(manifest), INT8, int8.content)
    return int8


def verify_int8(data: Dataset, repository: Repository, stored: StoredModel) -> Int8Model:
    """Proves a published version in int8 on this processor, and adds the proof to its manifest if the gate passes.

    Raises:
        UnusableModel: It has no int8.
        DigitsError: The engine refuses a file, or the repository can't be written.
    """
    if INT8 not in stored.precisions:
        advice = "the same command with --precision int8 and without --verify adds it"
        raise UnusableModel(f"version {stored.version} of {stored.name} has no int8; {advice}")
    int8 = _proven(data, stored.manifest, stored.content, stored.precisions[INT8])
    if not int8.report.problems:
        repository.replace_manifest(stored.version, int8.described_in(stored.manifest))
    return int8


def _proven(data: Dataset, manifest: Manifest, exact: bytes, content: bytes) -> Int8Model:
    test = GateImages(
        images=data.test_images,
        labels=data.test_labels,
        names=data.label_names,
        non_digits=_non_digits(data) if manifest.no_digit else None,
        threshold=manifest.no_digit.threshold if manifest.no_digit else None,
    )
    report = check_precision(_engine(manifest, exact), _engine(manifest, content), test)
    return Int8Model(content=content, report=report, kernels=int8_kernels()[0])


def _engine(manifest: Manifest, content: bytes) -> Engine:
    engine = Engine(
        content,
        image_shape=manifest.input.shape,
        classes=len(manifest.labels),
        config=EngineConfig(provider="cpu"),
        no_digit=manifest.no_digit is not None,
    )
    engine.start()
    return engine


def _non_digits(data: Dataset) -> npt.NDArray[np.uint8]:
    generator = np.random.default_rng(_SEED)
    return draw_non_digits(data.test_images[..., 0], _NON_DIGITS, generator)[..., np.newaxis]
