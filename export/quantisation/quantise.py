"""Static quantisation: a float32 graph and some images in, a graph with int8 convolutions out.

Activations are uint8 with one scale each, weights int8 with a scale for each output channel. Dense layers, the softmax
and the output `no_digit` stay float32, since they take a few percent of the time and all of the precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from export.errors import UnusableModel
from export.quantisation.graph import (
    Activation,
    Layer,
    Weights,
    constants,
    layers_of,
    pool_before_relu,
    quantised,
    read_as,
)
from export.quantisation.observation import Observed, input_moments, observe
from export.quantisation.rounding import round_weights, scales_of
from serving.inference.interface import LOGITS

Uint8Array = npt.NDArray[np.uint8]

# Bytes of the calibration images together; from so many of each size that they give stable ranges and means.
_BYTES, _FEWEST, _MOST = 1_600_000, 100, 2_000
_IMAGES_FOR_MOMENTS = 100
# A channel that is hardly ever active says little about its own mean.
_LEAST_ACTIVE = 0.05

_NOTHING = (
    "nothing to quantise: the network has no convolution that int8 makes faster; without --precision int8 it is "
    "published in float32"
)


def quantise(content: bytes, images: Uint8Array) -> bytes:
    """Quantises the convolutions of an exported model.

    Args:
        content: The bytes of `model.onnx`.
        images: uint8 `[n, height, width, channels]`, images as in service. Neither test images nor labels are needed.

    Returns:
        A serialised ONNX model with the same inputs, outputs and metadata.

    Raises:
        UnusableModel: It has no convolution that is faster in int8.
    """
    model = onnx.load_from_string(content)
    pool_before_relu(model.graph)
    layers = list(layers_of(model.graph))
    if not layers:
        raise UnusableModel(_NOTHING)
    images = images[_spread(len(images), int(np.clip(_BYTES // images[0].size, _FEWEST, _MOST)))]
    tensors = {name for layer in layers for name in (layer.source, layer.result, layer.pooled)}
    seen = observe(model, [*sorted(tensors), LOGITS], images)
    activations = _activations(layers, seen)
    few = images[_spread(len(images), _IMAGES_FOR_MOMENTS)]
    weights = {layer.conv.output[0]: _weights(model, layer, few) for layer in layers}
    for layer in layers:
        weights = _with_bias(model, weights, activations, layer, seen[layer.pooled], images)
    made = quantised(model, weights, activations)
    _correct_logits(made, seen[LOGITS], observe(made, [LOGITS], images)[LOGITS])
    onnx.checker.check_model(made, full_check=True)
    quantised_content: bytes = made.SerializeToString()
    return quantised_content


def _spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Positions of at most so many of the images, evenly over all of them."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def _activations(layers: list[Layer], seen: Mapping[str, Observed]) -> dict[str, Activation]:
    """What a pooling takes and gives has one scale; otherwise its values would be rounded twice."""
    activations: dict[str, Activation] = {}
    for layer in layers:
        for name in (layer.source, layer.result):
            activations.setdefault(name, Activation.of(seen[name].low, seen[name].high))
        activations[layer.pooled] = activations[layer.result]
    return activations


def _weights(model: onnx.ModelProto, layer: Layer, images: Uint8Array) -> Weights:
    known = constants(model.graph)
    exact = np.asarray(known[layer.conv.input[1]], np.float32)
    bias = known[layer.conv.input[2]] if len(layer.conv.input) > 2 else np.zeros(len(exact))
    scales = scales_of(exact)
    values = round_weights(exact, scales, input_moments(model, layer.conv, images))
    return Weights(values=values, scales=scales, bias=np.asarray(bias, np.float64))


def _with_bias(
    model: onnx.ModelProto,
    weights: Mapping[str, Weights],
    activations: Mapping[str, Activation],
    layer: Layer,
    exact: Observed,
    images: Uint8Array,
) -> dict[str, Weights]:
    """Shifts the bias of a layer so that the mean of each of its channels stays what it was.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.2;
    here after the pooling, which turns rounding errors into an offset, since it picks the largest.
    """
    name = layer.conv.output[0]
    read = read_as(layer.pooled)
    found = observe(quantised(model, weights, activations), [read], images)[read]
    shift = (exact.mean - found.mean) / np.maximum(exact.active, _LEAST_ACTIVE)
    return {**weights, name: replace(weights[name], bias=weights[name].bias + shift)}


def _correct_logits(model: onnx.ModelProto, exact: Observed, found: Observed) -> None:
    """Shifts the bias of the last layer so that the mean of each logit stays what it was."""
    last = next(node for node in model.graph.node if LOGITS in node.output)
    for constant in model.graph.initializer:
        values = numpy_helper.to_array(constant)
        if constant.name in last.input and values.shape == exact.mean.shape:
            shifted = (values + (exact.mean - found.mean)).astype(np.float32)
            constant.CopyFrom(numpy_helper.from_array(shifted, constant.name))
