"""Finding external data in an ONNX file without the onnx package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.errors import ModelRejected
from serving.inference.external_data import uses_external_data
from serving.repository.repository import StoredModel


def _external(name: str = "w") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return tensor


def _graph(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...] = ()) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "g", [], [], list(initializers))


def _in_initializer() -> onnx.ModelProto:
    return helper.make_model(_graph(initializers=(_external(),)))


def _in_constant_node() -> onnx.ModelProto:
    return helper.make_model(_graph(helper.make_node("Constant", [], ["c"], value=_external())))


def _in_subgraph() -> onnx.ModelProto:
    inner = _graph(initializers=(_external(),))
    return helper.make_model(_graph(helper.make_node("If", ["c"], ["o"], then_branch=inner, else_branch=inner)))


def _in_sparse_initializer() -> onnx.ModelProto:
    model = helper.make_model(_graph())
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(_external())
    return model


def _in_function() -> onnx.ModelProto:
    model = helper.make_model(_graph())
    node = helper.make_node("Constant", [], ["c"], value=_external())
    model.functions.append(helper.make_function("d", "f", [], ["c"], [node], [helper.make_opsetid("", 18)]))
    return model


@pytest.mark.parametrize(
    "make", [_in_initializer, _in_constant_node, _in_subgraph, _in_sparse_initializer, _in_function]
)
def test_external_tensors_are_found_wherever_they_are(make) -> None:
    assert uses_external_data(make().SerializeToString())


def test_a_model_in_one_file_has_no_external_data(shipped: StoredModel) -> None:
    assert not uses_external_data(shipped.content)


def test_a_truncated_model_raises_at_most_our_own_error(shipped: StoredModel) -> None:
    refused = 0
    for length in range(0, len(shipped.content), 997):
        try:
            uses_external_data(shipped.content[:length])
        except ModelRejected:
            refused += 1
    assert refused > 100
