"""A trained network for export: `model.keras` and the `metrics.json` that training wrote beside it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from export.errors import UnusableModel, reason_of

FloatArray = npt.NDArray[np.float32]

_OTHERS = "digits-import takes models that digits-train did not make"

_RECORDED: dict[str, type] = {
    "architecture": str,
    "recipe": dict,
    "normalisation": str,
    "seed": int,
    "parameters": int,
    "data": dict,
    "labels": list,
    "input": dict,
    "test": dict,
    "versions": dict,
    "created": str,
    "model_sha256": str,
}


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network of `digits-train` and its record.

    Attributes:
        network: From uint8 `[batch, height, width, channels]` to probabilities `[batch, classes]`, a chain of layers.
        record: The content of `metrics.json`.
    """

    network: keras.Model
    record: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class, in the order of the outputs."""
        return tuple(self.record["labels"])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        height, width, channels = self.network.input_shape[1:]
        return height, width, channels

    def predict(self, images: npt.NDArray[np.uint8]) -> tuple[FloatArray, FloatArray]:
        """Runs the network in Keras.

        The network ends in a softmax, so its logits are computed by a copy of the last layer without it.

        Args:
            images: uint8 `[n, height, width, channels]`.

        Returns:
            Logits and probabilities, each float32 `[n, classes]`.
        """
        last = self.network.layers[-1]
        linear = rebuilt(
            last, {**last.get_config(), "activation": "linear", "name": f"{last.name}_logits"}, last.get_weights()
        )
        both = keras.Model(self.network.inputs, [linear(last.input), last.output])
        logits, probabilities = both.predict(images, batch_size=256, verbose=0)
        return logits, probabilities


def rebuilt(layer: keras.Layer, config: dict[str, Any], weights: list[npt.NDArray[Any]]) -> keras.Layer:
    """A copy of a layer with another configuration or other weights."""
    copy = type(layer).from_config(config)
    copy.build_from_config(layer.get_build_config())
    copy.set_weights(weights)
    return copy


def load_trained(path: Path) -> TrainedModel:
    """Reads a `.keras` file and the `metrics.json` beside it.

    Raises:
        UnusableModel: A file is missing or damaged, the two are not from the same run, or the network is not a chain of
            layers from uint8 images to a softmax over the labels.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UnusableModel(f"{path}: {error.strerror}") from error
    if not zipfile.is_zipfile(path):
        raise UnusableModel(f"{path}: not a .keras file, or a truncated one; {_OTHERS}")
    record = _read_record(path.parent / "metrics.json")
    if digest != record["model_sha256"]:
        raise UnusableModel(f"{path}: not the model that {path.parent / 'metrics.json'} describes")
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:
        raise UnusableModel(f"{path}: Keras can't load it: {reason_of(error)}") from error
    trained = TrainedModel(network=network, record=record)
    _check_network(trained, path)
    return trained


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnusableModel(f"{path}: {error.strerror}; digits-train writes it beside the model; {_OTHERS}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{path}: not JSON") from error
    for name, kind in _RECORDED.items():
        if not isinstance(record, dict) or not isinstance(record.get(name), kind):
            raise UnusableModel(f"{path}: {name} is missing or not a {kind.__name__}")
    for section, name, kind in (
        ("data", "source", str),
        ("data", "sha256", str),
        ("data", "options", dict),
        ("input", "preparation", str),
        ("recipe", "name", str),
        ("test", "accuracy", float),
    ):
        if not isinstance(record[section].get(name), kind):
            raise UnusableModel(f"{path}: {section}.{name} is missing or not a {kind.__name__}")
    if not all(isinstance(label, str) for label in record["labels"]):
        raise UnusableModel(f"{path}: labels must be text")
    return record


def _check_network(trained: TrainedModel, path: Path) -> None:
    network = trained.network
    if not isinstance(network, keras.Sequential):
        raise UnusableModel(f"{path}: not a chain of layers (keras.Sequential); {_OTHERS}")
    if len(network.input_shape) != 4 or None in network.input_shape[1:] or network.inputs[0].dtype != "uint8":
        raise UnusableModel(
            f"{path}: takes {network.inputs[0].dtype} {list(network.input_shape)}, "
            f"not uint8 images [batch, height, width, channels]; {_OTHERS}"
        )
    last = network.layers[-1]
    if (
        not isinstance(last, keras.layers.Dense)
        or last.activation is not keras.activations.softmax
        or not last.use_bias
    ):
        raise UnusableModel(f"{path}: the last layer is not a dense layer with bias and softmax; {_OTHERS}")
    if last.units != len(trained.labels):
        raise UnusableModel(f"{path}: {last.units} outputs, but {len(trained.labels)} labels in its record")
