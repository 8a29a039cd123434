"""The import: open, understand, wrap, prove, publish. A network that fails the parity gate is not published."""

from __future__ import annotations

import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import UnusableModel, reason_of
from export.gate_images import GateImages, draw_images, load_images
from export.head import Head, head_of
from export.opening import ImportOptions, open_origin
from export.origin import Finding, Origin
from export.parity import ParityLimits, ParityReport, check_parity
from export.pixels import ImageShape, PixelInput, pixel_input
from export.publishing import publish, published_before
from export.wrapping import wrap
from serving.config import EngineConfig
from serving.errors import DigitsError, InferenceFailed, ProviderUnavailable
from serving.inference.engine import RUNTIME_VERSION, Engine
from serving.repository.editor import RepositoryEditor
from serving.repository.labels import CANARY_SHARE, LabelChange
from serving.repository.manifest import InputSpec, Manifest
from serving.repository.repository import Repository

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
        version: The version that was published, now or before; None if the gate failed.
        labels: Name of each class.
        label_change: The change of the model's labels, if one was asked for and the gate passed.
    """

    findings: tuple[Finding, ...]
    report: ParityReport | None
    model_name: str
    version: int | None
    labels: tuple[str, ...]
    label_change: LabelChange | None = None


@dataclass(frozen=True, kw_only=True)
class _Untouched:
    """The network as it was brought, as the gate's reference."""

    origin: Origin
    pixels: PixelInput
    head: Head
    labels: tuple[str, ...]

    def predict(self, images: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        return self.head.finish(self.origin.run(self.pixels.prepare(images)))


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
        self, repository: Repository, *, model_name: str, label: str | None = None, share: float = CANARY_SHARE
    ) -> Import:
        """Wraps the network, proves parity and publishes the next version.

        Args:
            repository: The model repository.
            model_name: Name of the model there.
            label: `stable` or `canary` for the new version; None leaves the labels as they are.
            share: Share of the canary in the calls that name no version.

        Raises:
            UnusableModel: It can't be served, or needs an option to be understood.
            DatasetError: The images can't be loaded.
            DigitsError: The engine refuses the graph, or the repository can't be written.
        """
        repository.versions(model_name)  # fails early on an impossible name
        if label is not None:
            RepositoryEditor(repository).check_publish(model_name, label, share)
        try:
            return self._publish(repository, model_name, label, share)
        except UnusableModel as error:
            raise UnusableModel(f"{self._model}: {error}") from error
        except (DigitsError, OSError, ImportError):
            raise
        except Exception as error:  # of TensorFlow, Keras, tf2onnx, onnx or ONNX Runtime
            raise UnusableModel(f"{self._model}: can't be imported: {reason_of(error)}") from error

    def _publish(self, repository: Repository, name: str, label: str | None, share: float) -> Import:
        options = self._options
        origin = open_origin(self._model, options)
        pixels, about_pixels = pixel_input(origin, options.pixels, self._size_of_data())
        images = self._images(pixels.image_shape)
        output = self._first_outputs(origin, pixels, images)
        head, about_head = head_of(origin, output, logits=options.logits)
        labels, about_labels = _labels(options.labels, images.label_names, origin.labels, head.classes)
        preparation, about_preparation = _preparation(options.preparation, images, pixels.image_shape, labels)
        true_labels = images.labels_among(labels)
        findings = (*origin.findings, *about_pixels, about_head, *about_labels, *about_preparation)
        described = _describe_origin(origin, pixels, head)

        def same(manifest: Manifest) -> bool:
            return (
                manifest.training.get("origin") == described
                and manifest.labels == labels
                and manifest.input.preparation == preparation
            )

        if label is None and (found := published_before(repository, name, same, provider=self._provider)):
            return Import(findings=findings, report=None, model_name=name, version=found[0], labels=labels)
        properties = {
            "model_name": name,
            "labels": json.dumps(labels, ensure_ascii=False),
            "input": f"uint8 [batch, {', '.join(map(str, pixels.image_shape))}], 0 to 255",
            "architecture": described["kind"],
            "parameters": str(origin.parameters),
            "origin_sha256": origin.sha256,
            "data": images.source,
            "temperature": "1.0",
        }
        content = wrap(origin, pixels, head, properties=properties)
        engine = self._start_engine(origin, content, pixels.image_shape, head.classes)
        untouched = _Untouched(origin=origin, pixels=pixels, head=head, labels=labels)
        logits, _ = untouched.predict(images.images[:_JUDGED])
        largest = float(np.abs(logits).max()) if head.log_floor is None else 0.0
        report = check_parity(
            untouched,
            engine,
            images.images,
            true_labels,
            limits=ParityLimits(
                probabilities=self._limits.probabilities,
                logits=self._limits.logits * max(1.0, largest / _USUAL_LOGIT),
            ),
            log_floor=head.log_floor,
        )
        version = change = None
        if report.figures.passed:
            manifest = Manifest(
                model_name=name,
                sha256=hashlib.sha256(content).hexdigest(),
                labels=labels,
                input=_input_spec(pixels.image_shape, preparation),
                training={
                    "architecture": described["kind"],
                    "parameters": origin.parameters,
                    "data": images.describe(),
                    "origin": described,
                },
                accuracy=report.accuracy,
                parity={report.provider: report.figures},
                versions={**origin.versions, "onnxruntime": RUNTIME_VERSION},
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            )
            version, change = publish(repository, content, manifest, label=label, share=share)
        return Import(
            findings=findings, report=report, model_name=name, version=version, labels=labels, label_change=change
        )

    def _size_of_data(self) -> ImageShape | None:
        """The size of images that are not resized, where it is known without reading them."""
        return (28, 28, 1) if (self._options.data or "").startswith(("mnist", "synthetic")) else None

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

    def _start_engine(self, origin: Origin, content: bytes, image_shape: ImageShape, classes: int) -> Engine:
        config = EngineConfig(provider=self._provider)
        engine = Engine(content, image_shape=image_shape, classes=classes, config=config)
        try:
            engine.start()
        except (ProviderUnavailable, InferenceFailed):
            raise
        except Exception as error:
            if origin.input_shape[0] == 1:
                reason = f"its batch is fixed at 1, and it can't be made to take any ({reason_of(error)})"
                raise UnusableModel(f"{reason}; export it again with a batch of any size") from error
            raise UnusableModel(f"its wrapped graph can't be served: {reason_of(error)}") from error
        return engine


def _labels(
    said: tuple[str, ...] | None, of_data: tuple[str, ...] | None, of_file: tuple[str, ...] | None, classes: int
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    if said is not None:
        if len(said) != classes:
            raise UnusableModel(f"--labels names {len(said)} classes, but its output has {classes}")
        if len({*said}) != len(said):
            raise UnusableModel("--labels names a class twice")
        return said, ()
    for names, source in ((of_file, "from the file"), (of_data, "from the data")):
        if names and len(names) == classes:
            return names, (Finding(subject="labels", text=f"{_list(names)}, {source}", option="--labels"),)
    names = tuple(map(str, range(classes)))
    return names, (Finding(subject="labels", text=f"{_list(names)}, as nothing names them", option="--labels"),)


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 10 else f"{', '.join(names[:3])} to {names[-1]}"


def _preparation(
    said: str | None, images: GateImages, image_shape: ImageShape, labels: tuple[str, ...]
) -> tuple[str, tuple[Finding, ...]]:
    if said is not None:
        return said, ()
    if images.preparation is not None:
        chosen, why = images.preparation, f"as for {images.source}"
    elif image_shape == (28, 28, 1) and labels == tuple("0123456789"):
        chosen, why = "mnist", "since it takes 28 x 28 gray and has the ten digits"
    else:
        chosen, why = "resize", "since it is no network for digits"
    return chosen, (Finding(subject="preparation", text=f"{chosen}, {why}", option="--preparation"),)


def _describe_origin(origin: Origin, pixels: PixelInput, head: Head) -> dict[str, Any]:
    """What the manifest says about a network from elsewhere; equal for what would be the same served graph."""
    return {
        "kind": origin.kind,
        "file": origin.path.name,
        "sha256": origin.sha256,
        "layout": pixels.layout,
        "dtype": str(pixels.dtype),
        "scale": pixels.scale,
        "mean": [*pixels.mean],
        "std": [*pixels.std],
        "image_size": [*pixels.image_shape],
        "output": head.kind,
        "output_name": origin.output_name,
    }


def _input_spec(image_shape: ImageShape, preparation: str) -> InputSpec:
    height, width, channels = image_shape
    return InputSpec(height=height, width=width, channels=channels, preparation=preparation)
