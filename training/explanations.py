"""What each kind of layer does to a shape, and how its parameters and its work are counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]


def explain(kind: str, config: Mapping[str, Any], *shapes: Shape) -> dict[str, Any]:
    """Explains one layer.

    Args:
        kind: Its Keras class.
        config: Its arguments, as in Keras's `get_config`.
        *shapes: Shape of each input without the batch.

    Returns:
        Those fields of a `LayerSummary` that differ from its defaults and from the input's shape.

    Raises:
        ValueError: There is no explanation for this kind of layer, or none with these options or inputs.
    """
    if kind not in _EXPLAINERS:
        raise ValueError(f"no explanation is known for a {kind}")
    function, required = _EXPLAINERS[kind]
    for option, value in required.items():
        found = config.get(option, value)
        if (list(found) if isinstance(found, tuple) else found) != value:
            raise ValueError(f"no explanation is known for a {kind} with {option} = {found}")
    if len(shapes) > 1 and function not in (_elementwise, _concatenate):
        raise ValueError(f"no explanation is known for a {kind} with several inputs")
    return function(config, *shapes)


def _conv(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    (height, width), channels, filters = config["kernel_size"], shape[-1], config["filters"]
    size, reason = _window(shape, config["kernel_size"], config["strides"], config["padding"])
    bias = " + 1" if config["use_bias"] else ""
    inputs = height * width * channels
    count = (inputs + config["use_bias"]) * filters
    return {
        "shape": (*size, filters),
        "formula": f"({height}·{width}·{channels}{bias})·{filters} = {count:,}",
        "shape_reason": reason,
        "trainable": count,
        "macs": inputs * filters * prod(size),
    }


def _dense(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    inputs, units = shape[-1], config["units"]
    bias = " + 1" if config["use_bias"] else ""
    count = (inputs + config["use_bias"]) * units
    return {
        "shape": (*shape[:-1], units),
        "formula": f"({inputs}{bias})·{units} = {count:,}",
        "trainable": count,
        "macs": inputs * units,
    }


def _batch_norm(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    channels = shape[-1]
    return {
        "formula": f"4·{channels} = {4 * channels:,}",
        "note": f"{2 * channels:,} trained (scale and offset), {2 * channels:,} not (moving mean and variance follow "
        "the batches, no gradient reaches them)",
        "trainable": 2 * channels,
        "non_trainable": 2 * channels,
        "macs": prod(shape),
    }


def _pool(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    size, reason = _window(shape, config["pool_size"], config["strides"], config["padding"])
    return {"shape": (*size, shape[-1]), "shape_reason": reason, "note": "takes the largest, learns nothing"}


def _flatten(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    reason = f"{'·'.join(map(str, shape))} = {prod(shape):,}"
    return {"shape": (prod(shape),), "shape_reason": reason, "note": "only arranges values"}


def _average(_: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    height, width, channels = shape
    reason = f"the mean of {height}·{width} values for each of {channels} channels"
    return {"shape": (channels,), "shape_reason": reason}


def _global_max(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    return {**_average(config, shape), "shape_reason": f"the largest of {shape[0]}·{shape[1]} values of each channel"}


def _average_pool(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    return {**_pool(config, shape), "note": "takes the mean, learns nothing"}


def _elementwise(_: Mapping[str, Any], *shapes: Shape) -> dict[str, Any]:
    if len(set(shapes)) > 1:
        raise ValueError("no explanation is known for inputs of different shapes")
    return {"note": f"joins {len(shapes)} inputs value by value, learns nothing"}


def _concatenate(_: Mapping[str, Any], *shapes: Shape) -> dict[str, Any]:
    if len({shape[:-1] for shape in shapes}) > 1:
        raise ValueError("no explanation is known for inputs of different shapes")
    channels = [shape[-1] for shape in shapes]
    reason = f"{' + '.join(map(str, channels))} = {sum(channels)}"
    return {"shape": (*shapes[0][:-1], sum(channels)), "shape_reason": reason, "note": "learns nothing"}


def _reshape(config: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    target = tuple(config["target_shape"])
    if -1 in target:
        target = tuple(side if side != -1 else prod(shape) // -prod(target) for side in target)
    return {"shape": target, "note": "only arranges values"}


def _augmentation(_: Mapping[str, Any], __: Shape) -> dict[str, Any]:
    return {"note": "changes images only while training, has nothing to learn"}


def _rescaling(_: Mapping[str, Any], __: Shape) -> dict[str, Any]:
    return {"note": "constants, not parameters"}


def _dropout(config: Mapping[str, Any], _: Shape) -> dict[str, Any]:
    return {"note": f"drops {config['rate']:.0%} of the values while training, has nothing to learn"}


def _activation(_: Mapping[str, Any], __: Shape) -> dict[str, Any]:
    return {"note": "a fixed function"}


def _window(shape: Shape, window: Any, strides: Any, padding: str) -> tuple[Shape, str]:
    """How a convolution or pooling changes height and width, and why; one reason if it is the same for both."""
    results, reasons = [], []
    for side, length, stride in zip(shape[:2], window, strides, strict=True):
        if padding == "same":
            result = -(-side // stride)
            reasons.append(f"same: {side}" if stride == 1 else f"same: ⌈{side} / {stride}⌉ = {result}")
        else:
            result = (side - length) // stride + 1
            quotient = f"{side} − {length}" if stride == 1 else f"⌊({side} − {length}) / {stride}⌋"
            reasons.append(f"valid: {quotient} + 1 = {result}")
        results.append(result)
    return tuple(results), reasons[0] if reasons[0] == reasons[1] else f"{reasons[0]} high, {reasons[1]} wide"


# By kind of layer: what explains it, and the only values of options for which that explanation is true.
_NHWC = {"data_format": "channels_last"}
_EXPLAINERS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "Conv2D": (_conv, {**_NHWC, "dilation_rate": [1, 1], "groups": 1}),
    "Dense": (_dense, {}),
    "BatchNormalization": (_batch_norm, {"axis": -1, "center": True, "scale": True}),
    "MaxPooling2D": (_pool, _NHWC),
    "Flatten": (_flatten, _NHWC),
    "GlobalAveragePooling2D": (_average, {**_NHWC, "keepdims": False}),
    "Rescaling": (_rescaling, {}),
    "Dropout": (_dropout, {}),
    "Activation": (_activation, {}),
    "AveragePooling2D": (_average_pool, _NHWC),
    "GlobalMaxPooling2D": (_global_max, {**_NHWC, "keepdims": False}),
    "Concatenate": (_concatenate, {"axis": -1}),
    "Reshape": (_reshape, {}),
    "SpatialDropout2D": (_dropout, {}),
    **dict.fromkeys(("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract"), (_elementwise, {})),
    **dict.fromkeys(("ELU", "LeakyReLU", "ReLU", "Softmax"), (_activation, {})),
    **dict.fromkeys(
        ("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom"),
        (_augmentation, {}),
    ),
}
