"""What servers said of a model's versions, kept so that the names of an answer's labels cost no further call."""

from __future__ import annotations

import threading

from protos.digits.v1 import digits_pb2

# Versions that are remembered: two answer in turn while one is on trial, others come and go.
_KEPT = 8


class ModelCache:
    """Descriptions of the versions that were met last. Safe to use from several threads.

    Attributes:
        current: What the next requests are made for; None where the server is to be asked.
    """

    def __init__(self) -> None:
        self.current: digits_pb2.GetModelResponse | None = None
        self._models: dict[tuple[str, int], digits_pb2.GetModelResponse] = {}
        self._lock = threading.Lock()

    def find(self, name: str, version: int) -> digits_pb2.GetModelResponse | None:
        """The description of a version, where it is known."""
        with self._lock:
            model = self._models.pop((name, version), None)
            if model is not None:
                self._models[name, version] = model  # now the last to be forgotten
            return model

    def add(self, model: digits_pb2.GetModelResponse) -> None:
        """Remembers a description, in place of an older one of the same version."""
        with self._lock:
            self._models.pop((model.model_name, model.model_version), None)
            self._models[model.model_name, model.model_version] = model
            while len(self._models) > _KEPT:
                del self._models[next(iter(self._models))]
