"""The inputs and outputs of a served graph, and whether a model has those that its manifest promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.errors import ModelRejected

INPUT, LOGITS, PROBABILITIES, NO_DIGIT = "images", "logits", "probabilities", "no_digit"

# Element type and shape, as ONNX Runtime describes an input or output.
Tensor = tuple[str, tuple[Any, ...]]


def check_interface(
    found: Mapping[str, Tensor], *, image_shape: tuple[int, int, int], classes: int, no_digit: bool | None
) -> dict[str, tuple[int, ...]]:
    """Compares names, types and shapes with the manifest.

    Args:
        found: The inputs and outputs of the model.
        image_shape: Height, width and channels according to the manifest.
        classes: Number of labels according to the manifest.
        no_digit: Whether there is the output `no_digit` according to the manifest; None if either is fine.

    Returns:
        The outputs in their order, all float32, each with the shape of one row: `(classes,)`, or `()` for one number.

    Raises:
        ModelRejected: They differ.
    """
    if NO_DIGIT in found and no_digit is False:
        raise ModelRejected("model.onnx: has the output no_digit, but the manifest has no proof of it")
    if NO_DIGIT not in found and no_digit:
        raise ModelRejected("manifest: no_digit describes an output that model.onnx does not have")
    outputs: dict[str, tuple[int, ...]] = {LOGITS: (classes,), PROBABILITIES: (classes,)}
    if NO_DIGIT in found:
        outputs[NO_DIGIT] = ()
    expected: dict[str, Tensor] = {
        INPUT: ("tensor(uint8)", ("batch", *image_shape)),
        **{name: ("tensor(float)", ("batch", *row_shape)) for name, row_shape in outputs.items()},
    }
    for name in expected.keys() | found.keys():
        if found.get(name) != expected.get(name):
            raise ModelRejected(
                f"model.onnx: {name} is {_describe(found.get(name))}, "
                f"but the manifest says {_describe(expected.get(name))}"
            )
    return outputs


def _describe(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tensor[0]} {list(tensor[1])}"
