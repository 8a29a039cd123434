"""Conversion from Keras to ONNX: one static graph from uint8 images to logits and probabilities.

Keras works in NHWC, and tf2onnx converts each convolution to NCHW. To flatten in NHWC would leave a transpose and a
dynamic reshape before the dense layers. So values are flattened in NCHW here, and the weights that follow are permuted
to match: the sums and products are the same. Global averages are taken in NCHW for the same reason.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper, shape_inference

from export.errors import UnusableModel
from export.folding import folded
from export.tracing import trace
from export.trained_model import TrainedModel, rebuilt
from serving.inference.interface import INPUT, LOGITS, NO_DIGIT, PROBABILITIES

BATCH = "batch"

Layer = Callable[[Any], Any]


def convert(trained: TrainedModel, *, model_name: str, temperature: float = 1.0, with_no_digit: bool = False) -> bytes:
    """Converts a network.

    Args:
        trained: The network and its record.
        model_name: Name of the model, for the file's metadata.
        temperature: Divisor of the logits before the softmax; the output `logits` is not divided.
        with_no_digit: Whether the graph gets the output `no_digit`: 1 / (1 + sum(exp(logits))), as `training.no_digit`
            says.

    Returns:
        A serialised ONNX model: input `images`, uint8 `[batch, height, width, channels]`; outputs `logits` and
        `probabilities`, float32 `[batch, classes]`, and perhaps `no_digit`, float32 `[batch]`; and metadata that
        describe the model.

    Raises:
        UnusableModel: The weights of a layer after a Flatten can't be permuted, or ONNX lacks an operation.
    """
    layers = _layers(trained.network)

    def serve(images: Any) -> dict[str, Any]:
        values = images
        for layer in layers:
            values = layer(values)
        scaled = values if temperature == 1 else values / temperature
        return {LOGITS: values, PROBABILITIES: tf.nn.softmax(scaled)}

    model = trace(serve, shape=(None, *trained.image_shape), dtype=tf.uint8, name=INPUT)
    if with_no_digit:
        _add_no_digit(model.graph)
    _name_batch_dimension(model)
    _describe(model, trained, model_name, temperature)
    model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _layers(network: keras.Sequential) -> list[Layer]:
    """Prepares the layers for export: folds, drops the softmax of the last, permutes weights after a Flatten."""
    exported: list[Layer] = []
    spatial = False  # whether values are NCHW in the ONNX graph: they are after a convolution or pooling
    order: np.ndarray | None = None  # of the flattened values, while it differs from Keras's
    layers = folded(network.layers)
    for layer in layers:
        spatial |= isinstance(layer, keras.layers.Conv2D | keras.layers.MaxPooling2D)
        if isinstance(layer, keras.layers.Flatten) and spatial and layer.data_format == "channels_last":
            shape = tuple(layer.input.shape[1:])
            order = np.arange(np.prod(shape)).reshape(shape).transpose(2, 0, 1).ravel()
            exported.append(_flatten_channels_first(len(order)))
            continue
        if (
            isinstance(layer, keras.layers.GlobalAveragePooling2D)
            and layer.data_format == "channels_last"
            and not layer.keepdims
        ):
            exported.append(_average_channels_first)
            continue
        weights, config = layer.get_weights(), layer.get_config()
        if layer is layers[-1]:
            config["activation"] = "linear"
        elif order is None or not weights:
            exported.append(_called(layer))
            continue
        if order is not None and weights:
            if not isinstance(layer, keras.layers.Dense | keras.layers.BatchNormalization):
                raise UnusableModel(f"{layer.name}: a {type(layer).__name__} after a Flatten can't be converted")
            weights = [weight[order] if weight.shape[:1] == order.shape else weight for weight in weights]
        if isinstance(layer, keras.layers.Dense):
            order = None
        exported.append(_called(rebuilt(layer, config, weights)))
    return exported


def _called(layer: keras.Layer) -> Layer:
    """The layer in inference mode: not only dropout and batch normalisation behave otherwise in training."""
    if isinstance(layer, keras.layers.Rescaling) and not np.any(layer.offset):  # Keras would add the 0 to every pixel
        if np.all(np.equal(layer.scale, 1)):
            return lambda values: tf.cast(values, tf.float32)
        return lambda values: tf.cast(values, tf.float32) * layer.scale
    if "training" not in inspect.signature(layer.call).parameters:
        return layer  # type: ignore[no-any-return]
    return lambda values: layer(values, training=False)


def _flatten_channels_first(size: int) -> Layer:
    return lambda values: tf.reshape(tf.transpose(values, [0, 3, 1, 2]), [-1, size])


def _average_channels_first(values: Any) -> Any:
    return tf.reduce_mean(tf.transpose(values, [0, 3, 1, 2]), [2, 3])


def _add_no_digit(graph: onnx.GraphProto) -> None:
    """Adds the output `no_digit`: sigmoid(-log(sum(exp(logits)))), which does not overflow."""
    axes, energy, logit = (f"{NO_DIGIT}/{part}" for part in ("axes", "energy", "logit"))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), axes))
    graph.node.append(helper.make_node("ReduceLogSumExp", [LOGITS, axes], [energy], name=energy, keepdims=0))
    graph.node.append(helper.make_node("Neg", [energy], [logit], name=logit))
    graph.node.append(helper.make_node("Sigmoid", [logit], [NO_DIGIT], name=NO_DIGIT))
    graph.output.append(helper.make_tensor_value_info(NO_DIGIT, onnx.TensorProto.FLOAT, [BATCH]))


def _name_batch_dimension(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del model.graph.value_info[:]  # will be inferred again, with that name


def _describe(model: onnx.ModelProto, trained: TrainedModel, model_name: str, temperature: float) -> None:
    record = trained.record
    model.graph.name = model_name
    model.producer_name = "digits-serving"
    height, width, channels = trained.image_shape
    onnx.helper.set_model_props(
        model,
        {
            "model_name": model_name,
            "labels": json.dumps(trained.labels, ensure_ascii=False),
            "input": f"uint8 [batch, {height}, {width}, {channels}], 0 to 255",
            "architecture": record["architecture"],
            "recipe": record["recipe"].get("name", ""),
            "seed": str(record["seed"]),
            "parameters": str(record["parameters"]),
            "data": record["data"]["source"].partition(":")[0],
            "data_sha256": record["data"]["sha256"],
            "temperature": str(temperature),
            "keras_test_accuracy": str(record["test"].get("accuracy", "")),
        },
    )
