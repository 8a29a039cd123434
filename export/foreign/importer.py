"""The import: open, understand, wrap, prove, publish. A network that fails the parity gate is not published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.acceptance import Answers, Demands, judge
from export.errors import UnusableModel, reason_of
from export.foreign.defaults import class_labels, preparation_of
from export.foreign.gate_images import GateImages, draw_images, load_images
from export.foreign.head import head_of
from export.foreign.imported_network import ImportedNetwork
from export.foreign.opening import ImportOptions, open_origin
from export.foreign.origin import Finding, Origin
from export.foreign.pixels import ImageShape, PixelInput, pixel_input
from export.foreign.wrapping import wrap
from export.parity import ParityLimits, ParityReport, check_parity
from export.publishing import publish, published_before
from export.validation import validation_answers
from serving.config import EngineConfig
from serving.errors import DigitsError, InferenceFailed, ProviderUnavailable
from serving.inference.engine import Engine
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import CANARY_SHARE, LabelChange
from serving.repository.repository import Repository
from training.datasets import own_source

FloatArray = npt.NDArray[np.float32]

# Images from whose outputs the meaning of the output is judged, where its last layer says nothing.
_JUDGED = 64
# Of logits as large as those of digits; larger ones differ by more, as float32 has the same digits for all.
_USUAL_LOGIT = 30.0


@dataclass(frozen=True, kw_only=True)
class Import:
    """The outcome of an import.

    Attributes:
        findings: What was taken from the file or guessed.
        report: The report of the parity gate; None if the network was published before.
        model_name: Name of the model in the repository.
        version: The version that was published, now or before; None if the gate failed or the network was refused.
        replaces: The version that it replaces or would replace and how both compare, in words; None if there is none.
        refusal: Why a network that passed the gate was not published; None if it was.
        label_change: The change of the model's labels, if one was asked for and the gate passed.
    """

    findings: tuple[Finding, ...]
    report: ParityReport | None
    model_name: str
    version: int | None
    replaces: str | None = None
    refusal: str | None = None
    label_change: LabelChange | None = None


class Importer:
    """Imports one network that was made elsewhere.

    Args:
        model: A file of Keras or ONNX, or the directory of a SavedModel.
        options: What the user says about it.
        provider: The execution provider to compare with the untouched network: `cpu` or `cuda`.
        limits: Largest differences that pass; that of logits grows with the logits.
    """

    def __init__(
        self, model: Path, *, options: ImportOptions, provider: str = "cpu", limits: ParityLimits | None = None
    ) -> None:
        self._model = model
        self._options = options
        self._provider = provider
        self._limits = limits or ParityLimits()

    def publish(
        self,
        repository: Repository,
        *,
        model_name: str,
        label: str | None = None,
        share: float = CANARY_SHARE,
        demands: Demands | None = None,
    ) -> Import:
        """Wraps the network, proves parity, judges its answers and publishes the next version.

        Args:
            repository: The model repository.
            model_name: Name of the model there.
            label: `stable` or `canary` for the new version; None leaves the labels as they are.
            share: Share of the canary in the calls that name no version.
            demands: What its answers must be where the images have labels, as for `Exporter.publish`.

        Raises:
            UnusableModel: It can't be served, or needs an option to be understood.
            DatasetError: The images can't be loaded.
            DigitsError: The engine refuses the graph, or the repository can't be written.
        """
        repository.versions(model_name)  # fails early on an impossible name
        if label is not None:
            RepositoryEditor(repository).check_publish(model_name, label, share)
        try:
            return self._publish(repository, model_name, label, share, demands or Demands())
        except UnusableModel as error:
            raise UnusableModel(f"{self._model}: {error}") from error
        except (DigitsError, OSError, ImportError):
            raise
        except Exception as error:  # of TensorFlow, Keras, tf2onnx, onnx or ONNX Runtime
            raise UnusableModel(f"{self._model}: can't be imported: {reason_of(error)}") from error

    def _publish(self, repository: Repository, name: str, label: str | None, share: float, demands: Demands) -> Import:
        network, findings = self._open()
        same = network.is_described_by
        if label is None and (found := published_before(repository, name, same, provider=self._provider)):
            return Import(findings=findings, report=None, model_name=name, version=found[0])
        content = wrap(network.origin, network.pixels, network.head, properties=network.properties(name))
        labels, engine = network.images.labels_among(network.labels), self._start_engine(network, content)
        report = self._check(network, engine, labels)
        if not report.figures.passed:
            return Import(findings=findings, report=report, model_name=name, version=None)
        images = network.images.images
        validation = None if labels is None else validation_answers(engine, images)
        manifest = network.manifest(name, content, report, validation)
        test = Answers(images=images, labels=labels, answers=report.answers)
        verdict = judge(manifest, test, repository, label=label, demands=demands, provider=self._provider)
        version = change = None
        if verdict.refusal is None:
            version, change = publish(repository, content, manifest, label=label, share=share)
        return Import(
            findings=findings,
            report=report,
            model_name=name,
            version=version,
            replaces=verdict.replaces,
            refusal=verdict.refusal,
            label_change=change,
        )

    def _open(self) -> tuple[ImportedNetwork, tuple[Finding, ...]]:
        options = self._options
        origin = open_origin(self._model, options)
        pixels, about_pixels = pixel_input(origin, options.pixels, self._size_of_data())
        images = self._images(pixels.image_shape)
        head, about_head = head_of(origin, self._first_outputs(origin, pixels, images), logits=options.logits)
        labels, about_labels = class_labels(options.labels, images.label_names, origin, head.classes)
        preparation, about_preparation = preparation_of(options.preparation, images, pixels.image_shape, labels)
        network = ImportedNetwork(
            origin=origin, pixels=pixels, head=head, labels=labels, preparation=preparation, images=images
        )
        return network, (*origin.findings, *about_pixels, about_head, *about_labels, *about_preparation)

    def _check(
        self, network: ImportedNetwork, engine: Engine, true_labels: npt.NDArray[np.int64] | None
    ) -> ParityReport:
        logits, _ = network.predict(network.images.images[:_JUDGED])
        largest = float(np.abs(logits).max()) if network.head.log_floor is None else 0.0
        limits = replace(self._limits, logits=self._limits.logits * max(1.0, largest / _USUAL_LOGIT))
        return check_parity(
            network, engine, network.images.images, true_labels, limits=limits, log_floor=network.head.log_floor
        )

    def _size_of_data(self) -> ImageShape | None:
        """The size of images that are not resized, where it is known without reading them."""
        data = self._options.data
        return None if data is None or own_source(data) else (28, 28, 1)

    def _images(self, image_shape: ImageShape) -> GateImages:
        if self._options.data is None:
            return draw_images(image_shape)
        return load_images(self._options.data, data_dir=self._options.data_dir, image_shape=image_shape)

    def _first_outputs(self, origin: Origin, pixels: PixelInput, images: GateImages) -> npt.NDArray[Any]:
        try:
            return origin.run(pixels.prepare(images.images[:_JUDGED]))
        except UnusableModel:
            raise
        except Exception as error:
            raise UnusableModel(f"{origin.kind} itself can't run it on these images: {reason_of(error)}") from error

    def _start_engine(self, network: ImportedNetwork, content: bytes) -> Engine:
        engine = Engine(
            content,
            image_shape=network.pixels.image_shape,
            classes=network.head.classes,
            config=EngineConfig(provider=self._provider),
        )
        try:
            engine.start()
        except (ProviderUnavailable, InferenceFailed):
            raise
        except Exception as error:
            if network.origin.input_shape[0] == 1:
                reason = f"its batch is fixed at 1, and it can't be made to take any ({reason_of(error)})"
                raise UnusableModel(f"{reason}; export it again with a batch of any size") from error
            raise UnusableModel(f"its wrapped graph can't be served: {reason_of(error)}") from error
        return engine
