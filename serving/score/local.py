"""Scores in this process, without a server. Imports ONNX Runtime, so it is imported only if it is used."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from serving.config import EngineConfig
from serving.images.image_status import statuses_of
from serving.images.preparation import Preparation
from serving.inference.engine import Engine
from serving.inference.processors import available_processors
from serving.inference.sessions import CUDA
from serving.repository.repository import Repository, StoredModel
from serving.score.batch import Scores, ScoringModel, Uint8Array
from serving.score.classifier import Classifier
from serving.score.scorer import Scorer

# On CUDA these threads decode images for one engine.
_THREADS_ON_CUDA = 8


class LocalClassifier(Classifier):
    """One engine. Decodes in any number of threads, and infers in a single one, to which the engine belongs.

    Args:
        stored: The model.
        provider: `cpu`, `cuda`, or `auto`.

    Raises:
        DigitsError: The model must not be served, or the provider is not available.
    """

    def __init__(self, stored: StoredModel, *, provider: str) -> None:
        self.model = scoring_model(stored)
        self._threshold = stored.manifest.no_digit.threshold if stored.manifest.no_digit else 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._engine = Engine(
            stored.content,
            image_shape=stored.manifest.input.shape,
            classes=len(stored.manifest.labels),
            no_digit=stored.manifest.no_digit is not None,
            config=EngineConfig(provider=provider, threads=1),  # more threads would spin between inferences
        )
        self._thread.submit(self._engine.start).result()

    @property
    def uses_cuda(self) -> bool:
        """Whether the model runs on CUDA."""
        return self._engine.provider == CUDA

    def infer(self, images: Uint8Array) -> Scores:
        """See `Classifier.infer`."""
        found = self._thread.submit(self._engine.infer, images).result()
        probabilities = found.probabilities
        labels = probabilities.argmax(axis=1)
        confidences = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
        return Scores(
            model=self.model,
            labels=labels,
            confidences=confidences,
            probabilities=probabilities,
            statuses=statuses_of(None, found.no_digit, self._threshold),
        )


class LocalScorer(Scorer):
    """One engine for each processor, each with a thread of its own; or one engine on CUDA.

    Args:
        stored: The model.
        provider: `cpu`, `cuda`, or `auto`.
        engines: Engines on the CPU; 0 for one for each processor that this process may use.

    Raises:
        DigitsError: The model must not be served, or the provider is not available.
    """

    def __init__(self, stored: StoredModel, *, provider: str, engines: int = 0) -> None:
        first = LocalClassifier(stored, provider=provider)
        if first.uses_cuda:
            classifiers = [first] * _THREADS_ON_CUDA
        else:
            others = (engines or available_processors()) - 1
            classifiers = [first, *(LocalClassifier(stored, provider=provider) for _ in range(others))]
        super().__init__(first.model, [classifier.classify for classifier in classifiers])


def load_model(repository: Path, name: str | None, version: int | None) -> StoredModel:
    """Reads a model from a repository: by default the only model, in its newest version.

    Raises:
        DigitsError: There is no such model, or it must not be served.
    """
    models = Repository(repository)
    return models.load(*models.choose(name, version))


def scoring_model(stored: StoredModel) -> ScoringModel:
    """Describes a stored model."""
    manifest, spec = stored.manifest, stored.manifest.input
    return ScoringModel(
        name=stored.name,
        version=stored.version,
        sha256=manifest.sha256,
        labels=manifest.labels,
        preparation=Preparation(kind=spec.preparation, height=spec.height, width=spec.width, channels=spec.channels),
    )
