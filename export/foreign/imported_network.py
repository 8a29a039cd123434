"""A network from elsewhere once it is understood: the gate's reference, and what its manifest says."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.foreign.gate_images import GateImages
from export.foreign.head import Head
from export.foreign.origin import Origin
from export.foreign.pixels import PixelInput
from export.parity import ParityReport
from serving.inference.sessions import RUNTIME_VERSION
from serving.repository.manifest import InputSpec, Manifest, ValidationAnswers

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ImportedNetwork:
    """A network, how images become its input, and what its output means.

    Attributes:
        origin: The network as it was brought.
        pixels: How images become its input.
        head: What its output is.
        labels: Name of each class, in the order of the outputs.
        preparation: How a server makes other images fit.
        images: The images to compare on.
    """

    origin: Origin
    pixels: PixelInput
    head: Head
    labels: tuple[str, ...]
    preparation: str
    images: GateImages

    def predict(self, images: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Runs the untouched network; what comes before and after it is computed by NumPy.

        Args:
            images: uint8 `[n, height, width, channels]`.

        Returns:
            Logits and probabilities, each float32 `[n, classes]`.
        """
        return self.head.finish(self.origin.run(self.pixels.prepare(images)))

    def properties(self, model_name: str) -> dict[str, str]:
        """What the file says about itself."""
        return {
            "model_name": model_name,
            "labels": json.dumps(self.labels, ensure_ascii=False),
            "input": f"uint8 [batch, {', '.join(map(str, self.pixels.image_shape))}], 0 to 255",
            "architecture": self.origin.kind,
            "parameters": str(self.origin.parameters),
            "origin_sha256": self.origin.sha256,
            "data": self.images.source,
            "temperature": "1.0",
        }

    def manifest(
        self, model_name: str, content: bytes, report: ParityReport, validation: ValidationAnswers | None
    ) -> Manifest:
        """The manifest of the wrapped network."""
        height, width, channels = self.pixels.image_shape
        return Manifest(
            model_name=model_name,
            sha256=hashlib.sha256(content).hexdigest(),
            labels=self.labels,
            input=InputSpec(height=height, width=width, channels=channels, preparation=self.preparation),
            training={
                "architecture": self.origin.kind,
                "parameters": self.origin.parameters,
                "data": self.images.describe(),
                "origin": {**self._served_part(), "file": self.origin.path.name},
            },
            accuracy=report.accuracy,
            parity={report.provider: report.figures},
            validation=validation,
            versions={**self.origin.versions, "onnxruntime": RUNTIME_VERSION},
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def is_described_by(self, manifest: Manifest) -> bool:
        """Whether a version is this network, served in the same way and compared on the same images."""
        origin = manifest.training.get("origin")
        return (
            isinstance(origin, Mapping)
            and {name: value for name, value in origin.items() if name != "file"} == self._served_part()
            and manifest.training.get("data") == self.images.describe()
            and (manifest.labels, manifest.input.preparation) == (self.labels, self.preparation)
        )

    def _served_part(self) -> dict[str, Any]:
        """What decides about the served graph."""
        return {
            "kind": self.origin.kind,
            "sha256": self.origin.sha256,
            "image_size": [*self.pixels.image_shape],
            "layout": self.pixels.layout,
            "dtype": str(self.pixels.dtype),
            "scale": self.pixels.scale,
            "mean": [*self.pixels.mean],
            "std": [*self.pixels.std],
            "output": self.head.kind,
            "output_name": self.origin.output_name,
        }
