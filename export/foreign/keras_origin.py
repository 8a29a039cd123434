"""Keras models, SavedModels and weights made elsewhere: loaded, and traced to ONNX as a whole, in inference mode."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

from export.errors import UnusableModel, reason_of
from export.foreign.origin import Array, Finding, Origin, refuse_recurrent
from export.tracing import trace
from training.architectures import ARCHITECTURES, ImageShape

_BATCH = 256
_INPUT = "input"
_HALVES = ("float16", "bfloat16")


def open_keras(path: Path, *, output: str | None = None) -> Origin:
    """Opens a model that Keras saved, as `.keras` or `.h5`.

    Args:
        path: The file.
        output: The output to serve, if it has several.

    Raises:
        UnusableModel: Keras can't load it, it can't be converted, or it has no single input and output.
    """
    if zipfile.is_zipfile(path):
        _refuse_lambdas(path)
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:
        raise UnusableModel(_why_not_loaded(path, error)) from error
    return _origin(path, network, output=output)


def open_weights(path: Path, architecture: str, *, image_shape: ImageShape | None, classes: int | None) -> Origin:
    """Opens a file with only the weights of a network of the catalogue.

    Args:
        path: A file that `save_weights` wrote.
        architecture: Name of the network.
        image_shape: Height, width and channels; as published by default.
        classes: Number of classes; as published by default.

    Raises:
        UnusableModel: The weights are not those of this network.
    """
    try:
        network = ARCHITECTURES[architecture].build(image_shape, classes)
        network.load_weights(path)
    except Exception as error:
        raise UnusableModel(f"not the weights of {architecture}: {reason_of(error)}") from error
    found = Finding(subject="network", text=f"{architecture} of the catalogue, which divides pixels by 255 itself")
    return _origin(path, network, findings=(found,))


def open_saved_model(path: Path, *, output: str | None = None) -> Origin:
    """Opens a SavedModel, a directory that TensorFlow wrote, by its signature `serving_default`.

    Args:
        path: The directory.
        output: The output to serve, if it has several.

    Raises:
        UnusableModel: TensorFlow can't load it, or its signature has no single input and output.
    """
    try:
        loaded = tf.saved_model.load(path)
    except Exception as error:
        raise UnusableModel(f"TensorFlow can't load it: {reason_of(error)}") from error
    signature = loaded.signatures.get("serving_default")
    if signature is None:
        raise UnusableModel(f"it has no signature serving_default, only {', '.join(loaded.signatures) or 'none'}")
    arguments = signature.structured_input_signature[1]
    if len(arguments) != 1:
        raise UnusableModel(
            f"its signature has {len(arguments)} inputs ({', '.join(arguments)}), but only one of images can be served"
        )
    ((name, spec),) = arguments.items()
    result = _chosen_output([*signature.structured_outputs], output)

    def call(values: Any) -> Any:
        return signature(**{name: values})[result]

    def run(values: Array) -> Array:
        parts = [call(tf.constant(values[start : start + _BATCH])) for start in range(0, len(values), _BATCH)]
        return np.concatenate([np.asarray(part) for part in parts])

    files = sorted(each for each in path.rglob("*") if each.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    parameters = sum(int(np.prod(variable.shape)) for variable in getattr(loaded, "variables", ()))
    shape = (None, *spec.shape[1:])
    _refuse_fixed_batch(spec.shape[0])
    return _traced(
        path, "SavedModel", call, shape, spec.dtype, run=run, sha256=digest.hexdigest(), parameters=parameters
    )


def _origin(path: Path, network: Any, *, output: str | None = None, findings: tuple[Finding, ...] = ()) -> Origin:
    if not getattr(network, "inputs", None):
        raise UnusableModel("it was never built, so the shape of its input is unknown; call it once before saving it")
    _refuse_recurrent_layers(network)
    if len(network.inputs) != 1:
        names = ", ".join(f"{each.name} {list(each.shape)}" for each in network.inputs)
        raise UnusableModel(f"it has {len(network.inputs)} inputs ({names}), but only one of images can be served")
    _refuse_fixed_batch(network.inputs[0].shape[0])
    # Several outputs, or one within a list or a dictionary.
    if output is not None or not (
        isinstance(network, keras.Sequential) or isinstance(network.output, keras.KerasTensor)
    ):
        network = _with_one_output(network, output)
    halved = _compute_in_float32(network)
    if halved:
        text = f"float32 instead of the {halved} that it was trained with"
        findings = (*findings, Finding(subject="precision", text=text))
    (given,) = network.inputs

    def run(values: Array) -> Array:
        return np.asarray(network.predict(values, batch_size=_BATCH, verbose=0))

    return _traced(
        path,
        "Keras",
        lambda values: network(values, training=False),
        (None, *given.shape[1:]),
        tf.as_dtype(given.dtype),
        run=run,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        parameters=network.count_params(),
        findings=findings,
    )


def _traced(path: Path, kind: str, function: Any, shape: tuple[int | None, ...], dtype: Any, **rest: Any) -> Origin:
    try:
        model = trace(function, shape=shape, dtype=dtype, name=_INPUT)
    except UnusableModel:
        raise
    except Exception as error:
        raise UnusableModel(f"it can't be converted to ONNX: {reason_of(error)}") from error
    refuse_recurrent(model)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__, "tf2onnx": tf2onnx.__version__}
    return Origin(path=path, kind=kind, model=model, versions=versions, **rest)


def _with_one_output(network: Any, output: str | None) -> Any:
    # In a dictionary they have the names that the user gave them, else those of their layers.
    outputs = network.output
    if not isinstance(outputs, dict):
        outputs = dict(zip(network.output_names, network.outputs, strict=True))
    return keras.Model(network.inputs, outputs[_chosen_output([*outputs], output)])


def _chosen_output(names: list[str], output: str | None) -> str:
    if output is None and len(names) > 1:
        raise UnusableModel(f"it has {len(names)} outputs ({', '.join(names)}); name the one to serve with --output")
    if output is not None and output not in names:
        raise UnusableModel(f"it has no output {output!r}; it has {', '.join(names)}")
    return output or names[0]


def _compute_in_float32(network: Any) -> str | None:
    """Makes layers of mixed precision compute in float32; returns the type that they used."""
    found = None
    for layer in _layers(network):
        if layer.compute_dtype in _HALVES and layer.quantization_mode is None:
            found = layer.compute_dtype
            layer.dtype_policy = keras.dtype_policies.DTypePolicy("float32")
    return found


def _layers(network: Any) -> Iterator[Any]:
    """All layers, those within layers included."""
    for layer in network._flatten_layers():
        if layer is not network:
            yield layer


def _refuse_recurrent_layers(network: Any) -> None:
    for layer in _layers(network):
        if isinstance(layer, keras.layers.RNN | keras.layers.Bidirectional):
            raise UnusableModel(
                f"the layer {layer.name} ({type(layer).__name__}) is recurrent over time; "
                "only networks that see the whole image at once can be served"
            )


def _refuse_fixed_batch(batch: int | None) -> None:
    if batch not in (None, 1):
        raise UnusableModel(f"its batch is fixed at {batch}; save it with an Input whose batch is open")


def _refuse_lambdas(path: Path) -> None:
    """Keras loads no lambda, which may run any code, but does not say which layer it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnusableModel("not a Keras model: a .keras file has a config.json inside") from error
    for layer in _configs(config):
        if layer.get("class_name") == "Lambda":
            name = layer.get("config", {}).get("name", "?")
            raise UnusableModel(
                f"the layer {name} is a Lambda, which holds Python code that may do anything, and is not run; "
                "build the model with layers of Keras instead, such as Rescaling"
            )


def _configs(document: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(document, dict):
        if isinstance(document.get("config"), dict):
            yield document
        for value in document.values():
            yield from _configs(value)
    elif isinstance(document, list):
        for value in document:
            yield from _configs(value)


def _why_not_loaded(path: Path, error: Exception) -> str:
    text = str(error)
    if missing := re.search(r"Could not locate (?:class|function) '([^']+)'", text):
        return (
            f"its class {missing[1]} is code of its author, which the file does not contain; build the model with "
            "layers of Keras, or export it to ONNX where the class is known"
        )
    if missing := re.search(r"Unknown (?:layer|object|activation function): '?([\w>]+)", text):
        return (
            f"its class {missing[1]} is code of its author, which the file does not contain; build the model with "
            "layers of Keras, or export it to ONNX where the class is known"
        )
    if "Lambda" in text:
        return "it has a Lambda layer, which holds Python code that may do anything, and is not run"
    if "No model config found" in text or path.name.endswith(".weights.h5"):
        return "it has weights but no network; name one of the catalogue with --architecture"
    return f"Keras can't load it: {reason_of(error)}"
