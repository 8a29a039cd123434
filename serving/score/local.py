"""Scores in this process, without a server. Imports ONNX Runtime, so it is imported only when asked for."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np

from serving.config import EngineConfig
from serving.images.preparation import Preparation
from serving.inference.engine import CUDA, Engine
from serving.inference.processors import available_processors
from serving.repository.repository import Repository, StoredModel
from serving.score.batch import Scores, ScoringModel, Uint8Array
from serving.score.scorer import PixelScorer

# Images decode in threads beside the ones that infer; on CUDA one engine serves them all.
_DECODERS_PER_DEVICE = 8


class LocalScorer(PixelScorer):
    """One engine for each processor, each with a thread of its own; or one on CUDA.

    Args:
        stored: The model.
        provider: `cpu`, `cuda`, or `auto`.
        engines: Engines on the CPU; 0 for as many as this process has processors.

    Raises:
        DigitsError: The model may not be served, or the provider is not to be had.
    """

    def __init__(self, stored: StoredModel, *, provider: str, engines: int = 0) -> None:
        self.model = model_of(stored)
        first = _start(stored, provider)
        count = 1 if first.provider == CUDA else engines or available_processors()
        self.parallel = _DECODERS_PER_DEVICE if first.provider == CUDA else count
        self._idle: queue.SimpleQueue[Engine] = queue.SimpleQueue()
        for engine in (first, *(_start(stored, provider) for _ in range(count - 1))):
            self._idle.put(engine)

    def infer(self, images: Uint8Array) -> Scores:
        """See `PixelScorer.infer`."""
        engine = self._idle.get()
        try:
            probabilities = engine.infer(images).probabilities
        finally:
            self._idle.put(engine)
        labels = probabilities.argmax(axis=1)
        confidences = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=1)[:, 0]
        return Scores(model=self.model, labels=labels, confidences=confidences, probabilities=probabilities)

    def close(self) -> None:
        """See `Scorer.close`; engines hold nothing that outlives them."""


def load_model(repository: Path, name: str | None, version: int | None) -> StoredModel:
    """Reads a model from a repository: the only one where none is named, its newest version where none is.

    Raises:
        DigitsError: There is no such model, or it may not be served.
    """
    models = Repository(repository)
    return models.load(*models.choose(name, version))


def model_of(stored: StoredModel) -> ScoringModel:
    """What is known of a stored model."""
    manifest, spec = stored.manifest, stored.manifest.input
    return ScoringModel(
        name=stored.name,
        version=stored.version,
        sha256=manifest.sha256,
        labels=manifest.labels,
        preparation=Preparation(kind=spec.preparation, height=spec.height, width=spec.width, channels=spec.channels),
    )


def _start(stored: StoredModel, provider: str) -> Engine:
    # One thread an engine: more would spin between inferences.
    engine = Engine(
        stored.content,
        image_shape=stored.manifest.input.shape,
        classes=len(stored.manifest.labels),
        config=EngineConfig(provider=provider, threads=1),
    )
    engine.start()
    return engine
