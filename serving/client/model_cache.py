"""A cache of model descriptions, so that the label names of an answer cost no further call."""

from __future__ import annotations

import threading

from protos.digits.v1 import digits_pb2

# Two versions answer in turn during a rollout, and more come and go.
_MAX_MODELS = 8


class ModelCache:
    """The descriptions of the versions that were used last. Safe to use from several threads.

    Attributes:
        current: The model that the next requests are made for; None to ask the server first.
    """

    def __init__(self) -> None:
        self.current: digits_pb2.GetModelResponse | None = None
        self._models: dict[tuple[str, int], digits_pb2.GetModelResponse] = {}
        self._lock = threading.Lock()

    def find(self, name: str, version: int) -> digits_pb2.GetModelResponse | None:
        """Returns the description of a version, or None if it is not cached."""
        with self._lock:
            model = self._models.pop((name, version), None)
            if model is not None:
                self._models[name, version] = model  # now the most recently used
            return model

    def add(self, model: digits_pb2.GetModelResponse) -> None:
        """Adds a description; replaces an older one of the same version."""
        with self._lock:
            self._models.pop((model.model_name, model.model_version), None)
            self._models[model.model_name, model.model_version] = model
            while len(self._models) > _MAX_MODELS:
                del self._models[next(iter(self._models))]
