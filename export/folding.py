"""Folding: scales and offsets become part of the weights beside them, so that nothing computes them for each image.

A normalisation at the start goes into the layer that follows, a batch normalisation into the layer before. Both are
affine in inference, and so are convolutions and dense layers without an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from export.trained_model import rebuilt

Float64Array = npt.NDArray[np.float64]


def folded(layers: Sequence[keras.Layer]) -> list[keras.Layer]:
    """Returns layers that compute the same in inference; where a normalisation was folded, images are only cast.

    A normalisation with an offset stays before a convolution that pads with zeros: at the rim, they are no pixels.
    """
    kept: list[keras.Layer] = []
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization) and kept and _takes_batch_norm(kept[-1], layer):
            kept[-1] = _with_batch_norm(kept[-1], layer)
        else:
            kept.append(layer)
    return _without_normalisation(kept)


def _takes_batch_norm(layer: keras.Layer, batch_norm: keras.layers.BatchNormalization) -> bool:
    last = len(batch_norm.input.shape) - 1
    return _is_affine(layer) and layer.activation is keras.activations.linear and batch_norm.axis in (-1, last)


def _with_batch_norm(layer: keras.Layer, batch_norm: keras.layers.BatchNormalization) -> keras.Layer:
    """Source: Jacob et al., "Quantization and Training of Neural Networks", 2017, section 3.2."""
    mean, variance = _float64(batch_norm.moving_mean), _float64(batch_norm.moving_variance)
    scale = 1 / np.sqrt(variance + batch_norm.epsilon)
    if batch_norm.scale:
        scale = scale * _float64(batch_norm.gamma)
    offset = _float64(batch_norm.beta) if batch_norm.center else np.zeros_like(scale)
    kernel, bias = _weights(layer)
    return _with_weights(layer, kernel * scale, (bias - mean) * scale + offset)


def _without_normalisation(layers: list[keras.Layer]) -> list[keras.Layer]:
    if not layers or not isinstance(layers[0], keras.layers.Rescaling):
        return layers
    scale, offset = _float64(layers[0].scale), _float64(layers[0].offset)
    place = 1
    for layer in layers[1:]:
        if isinstance(layer, keras.layers.Flatten) and layer.data_format == "channels_last":
            shape = tuple(layer.input.shape[1:])
            scale, offset = (np.broadcast_to(value, shape).ravel() for value in (scale, offset))
        elif not isinstance(layer, keras.layers.Dropout):
            break
        place += 1
    if not _is_affine(layer) or (getattr(layer, "padding", "valid") != "valid" and offset.any()):
        return layers
    kernel, bias = _weights(layer)
    inputs = kernel.shape[-2]
    scale, offset = (np.broadcast_to(value, inputs)[:, None] for value in (scale, offset))
    shifted = (kernel * offset).sum(axis=tuple(range(kernel.ndim - 1)))
    cast = keras.layers.Rescaling(1.0, name=layers[0].name)
    return [cast, *layers[1:place], _with_weights(layer, kernel * scale, bias + shifted), *layers[place + 1 :]]


def _is_affine(layer: keras.Layer) -> bool:
    """Whether it is a convolution or dense layer with only kernel and bias, and channels last."""
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.Dense)
        and len(layer.get_weights()) == 1 + layer.use_bias  # more where it is quantised
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _weights(layer: keras.Layer) -> tuple[Float64Array, Float64Array]:
    """Kernel `[..., inputs, outputs]` and bias `[outputs]`, zeros if the layer has none."""
    kernel, *bias = (_float64(weight) for weight in layer.get_weights())
    return kernel, bias[0] if bias else np.zeros(kernel.shape[-1])


def _with_weights(layer: keras.Layer, kernel: Float64Array, bias: Float64Array) -> keras.Layer:
    weights = [kernel.astype(np.float32), bias.astype(np.float32)]
    return rebuilt(layer, {**layer.get_config(), "use_bias": True}, weights)


def _float64(values: Any) -> Float64Array:
    return np.asarray(values, np.float64)
