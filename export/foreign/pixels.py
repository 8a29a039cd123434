"""How the server's images become the input of a network from elsewhere: layout, rank, element type and value range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from export.errors import UnusableModel
from export.foreign.constants import Constants, slope_of_first_layer
from export.foreign.origin import Array, Finding, Origin, shape_text

NHWC, NCHW = "nhwc", "nchw"

ImageShape = tuple[int, int, int]

_CHANNELS = (1, 3)
# A vector shorter than this is hardly an image: to call it one would be a guess.
_SMALLEST_SIDE = 8
# By what a network's own normalisation multiplies: by about 1/255 if it takes 0 to 255, by more than 1 if 0 to 1.
# In between nothing is certain: a BatchNormalization that has seen no images multiplies by 1, whatever it takes.
_OF_BYTES, _OF_UNITS = (0.0016, 0.2), (1.2, 100.0)


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """What the user said about the input; None where she said nothing.

    Attributes:
        scale: Factor of each pixel, which is 0 to 255.
        mean: Subtracted afterwards; one number, or one for each channel.
        std: Divisor afterwards; one number, or one for each channel.
        layout: `nhwc` or `nchw`.
        image_size: Height, width and channels.
    """

    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    layout: str | None = None
    image_size: ImageShape | None = None


@dataclass(frozen=True, kw_only=True)
class PixelInput:
    """The way from uint8 images to a network's input: (pixels * scale - mean) / std, then its layout, rank and type.

    Attributes:
        image_shape: Height, width and channels.
        layout: `nhwc` or `nchw`.
        rank: Rank of the network's input, the batch included: 4, 3 without channels, or 2 if it is flattened.
        dtype: Element type of the network's input.
        scale: Factor of each pixel.
        mean: Subtracted, one for each channel.
        std: Divisor, one for each channel.
    """

    image_shape: ImageShape
    layout: str
    rank: int
    dtype: np.dtype[Any]
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def arithmetic(self) -> tuple[tuple[str, npt.NDArray[np.float32]], ...]:
        """The operators between pixels and network, each with its constant."""
        steps = (("Mul", (self.scale,), 1.0), ("Sub", self.mean, 0.0), ("Div", self.std, 1.0))
        return tuple((name, np.array(values, np.float32)) for name, values, neutral in steps if {*values} != {neutral})

    @property
    def transposed(self) -> bool:
        """Whether values must change places; with one channel, both layouts are the same."""
        return self.layout == NCHW and self.image_shape[2] > 1

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The network's own dimensions, without the batch."""
        height, width, channels = self.image_shape
        whole = (height, width, channels) if self.layout == NHWC else (channels, height, width)
        return {4: whole, 3: (height, width), 2: (math.prod(whole),)}[self.rank]

    def prepare(self, images: npt.NDArray[np.uint8]) -> Array:
        """Computes the network's input with NumPy.

        Args:
            images: uint8 `[n, height, width, channels]`.
        """
        values: Array = images
        if self.arithmetic:
            values = values.astype(np.float32)
        for name, constant in self.arithmetic:
            values = {"Mul": np.multiply, "Sub": np.subtract, "Div": np.divide}[name](values, constant)
        if self.layout == NCHW:
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values.reshape(len(images), *self.input_shape).astype(self.dtype))


def pixel_input(
    origin: Origin, options: PixelOptions, data_shape: ImageShape | None = None
) -> tuple[PixelInput, tuple[Finding, ...]]:
    """Finds out what a network takes, from its graph and from what the user said.

    Args:
        origin: The network.
        options: What the user said.
        data_shape: Height, width and channels of the user's images, if they have their own.

    Returns:
        The input, and what was found or guessed.

    Raises:
        UnusableModel: It takes no image, or what it takes can't be known; the message names the option that says it.
    """
    findings: list[Finding] = []
    image_shape, layout = _image_shape(origin, options, data_shape, findings)
    scale, mean, std = _value_range(origin, options, image_shape[2], findings)
    return PixelInput(
        image_shape=image_shape,
        layout=layout,
        rank=len(origin.input_shape),
        dtype=origin.input_dtype,
        scale=scale,
        mean=mean,
        std=std,
    ), tuple(findings)


def _image_shape(
    origin: Origin, options: PixelOptions, data_shape: ImageShape | None, findings: list[Finding]
) -> tuple[ImageShape, str]:
    shape, said = origin.input_shape, options.image_size or data_shape
    described = f"its input is {shape_text(shape)}"
    if len(shape) == 4:
        choices = _layouts(shape, options, said)
        if not choices:
            raise UnusableModel(f"{described}, {_mismatch(options, said)}")
        if len(choices) > 1:
            raise UnusableModel(f"{described}, which may be either layout; name it with --layout nhwc or --layout nchw")
        ((layout, found),) = choices.items()
        if None in found:
            raise UnusableModel(f"{described}, which leaves the size open; name it with --image-size, such as 28x28x1")
        findings.append(Finding(subject="layout", text=f"{layout}, since {described}", option="--layout"))
        return found, layout  # type: ignore[return-value]
    if len(shape) == 3:
        height, width = (size or given for size, given in zip(shape[1:], said or (None, None), strict=False))
        if not height or not width:
            raise UnusableModel(f"{described}, which leaves the size open; name it with --image-size, such as 28x28x1")
        if said and said != (height, width, 1):
            raise UnusableModel(f"{described}, {_mismatch(options, said)}")
        return (height, width, 1), NHWC
    if len(shape) == 2:
        return _flat_shape(shape[1], options, said, described, findings)
    raise UnusableModel(f"{described}, which is no batch of images; 2, 3 or 4 dimensions can be served")


def _layouts(
    shape: tuple[int | None, ...], options: PixelOptions, said: ImageShape | None
) -> dict[str, tuple[int | None, ...]]:
    """Height, width and channels for each layout that is possible."""
    _, first, second, third = shape
    possible = {}
    for layout, found in ((NHWC, (first, second, third)), (NCHW, (second, third, first))):
        known = tuple(size or given for size, given in zip(found, said or (None,) * 3, strict=True))
        if options.layout in (None, layout) and known[2] in (*_CHANNELS, None) and (not said or known == said):
            possible[layout] = known
    # An axis that certainly is the channels is better than one that may be.
    certain = {layout: known for layout, known in possible.items() if shape[3 if layout == NHWC else 1] in _CHANNELS}
    return certain if len(certain) == 1 else possible


def _mismatch(options: PixelOptions, said: ImageShape | None) -> str:
    if said:
        source = "--image-size says" if options.image_size else "the data's images are"
        return f"but {source} {'x'.join(map(str, said))}" + (
            f" and --layout {options.layout}" if options.layout else ""
        )
    layout = f" in the layout {options.layout}" if options.layout else ""
    return f"which is no batch of images with one or three channels{layout}"


def _flat_shape(
    size: int | None, options: PixelOptions, said: ImageShape | None, described: str, findings: list[Finding]
) -> tuple[ImageShape, str]:
    if said:
        if size is not None and math.prod(said) != size:
            raise UnusableModel(f"{described}, {_mismatch(options, said)}")
        if said[2] > 1 and options.layout is None:
            raise UnusableModel(
                f"{described}, flattened from either layout; name it with --layout nhwc or --layout nchw"
            )
        return said, options.layout or NHWC
    side = math.isqrt(size or 0)
    if size is None or side * side != size or side < _SMALLEST_SIDE:
        raise UnusableModel(
            f"{described}; if that is a flattened image, name its size with --image-size, such as 28x28x1"
        )
    findings.append(
        Finding(subject="size", text=f"{side} x {side}, gray: {described}, a square", option="--image-size")
    )
    return (side, side, 1), NHWC


def _value_range(
    origin: Origin, options: PixelOptions, channels: int, findings: list[Finding]
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    dtype, given = origin.input_dtype, (options.scale, options.mean, options.std)
    if dtype.kind in "ui" and dtype != np.int8:
        if any(each is not None for each in given):
            raise UnusableModel(f"it takes {dtype} pixels as they are; leave out --scale, --mean and --std")
        findings.append(Finding(subject="pixels", text=f"0 to 255 as they are, since it takes {dtype}"))
        return 1.0, (0.0,), (1.0,)
    if dtype.kind != "f":
        raise UnusableModel(f"it takes {dtype} values, which are no pixels")
    if any(each is not None for each in given):
        return _as_said(options, channels, findings)
    slope = slope_of_first_layer(origin.model.graph, origin.input_name, Constants(origin.model.graph))
    if slope is not None:
        for scale, text, (least, most) in (
            (1.0, "0 to 255 as they are", _OF_BYTES),
            (1 / 255, "divided by 255", _OF_UNITS),
        ):
            if least <= slope <= most:
                why = f"since the network itself first multiplies by {slope:.3g}"
                findings.append(Finding(subject="pixels", text=f"{text}, {why}", option="--scale"))
                return scale, (0.0,), (1.0,)
    raise UnusableModel(
        f"it takes {dtype} values, and nothing in it says which; say how pixels, 0 to 255, become them: "
        "--scale 1 if it takes them as they are, --scale 1/255, or also --mean and --std"
    )


def _as_said(
    options: PixelOptions, channels: int, findings: list[Finding]
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    mean, std, scale = options.mean or (0.0,), options.std or (1.0,), options.scale
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise UnusableModel(f"{name} has {len(values)} numbers, but images have {channels} channels")
    if scale is None:
        # Means of pixels from 0 to 1 are below 1; those of pixels from 0 to 255 are not, unless all is black.
        scale = 1 / 255 if max(map(abs, (*mean, *std))) <= 1 else 1.0
        text = f"{'divided by 255' if scale != 1 else '0 to 255'} before --mean and --std, to judge by their size"
        findings.append(Finding(subject="pixels", text=text, option="--scale"))
    return scale, mean, std
