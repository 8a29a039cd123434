"""A network as `digits-train` would leave it, without training it."""

from __future__ import annotations

import keras

from export.trained_model import TrainedModel


def as_trained(network: keras.Sequential) -> TrainedModel:
    """Returns a network with a record that the conversion accepts; its labels are 0, 1, 2 and so on."""
    record = {
        "architecture": "any",
        "recipe": {},
        "seed": 0,
        "parameters": 1,
        "data": {"source": "x", "sha256": "y"},
        "labels": [str(label) for label in range(network.output_shape[-1])],
        "test": {},
    }
    return TrainedModel(network=network, record=record)
