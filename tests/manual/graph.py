"""What ONNX Runtime makes of the shipped graph on one thread of the CPU, what else could be done, and the core's limit.

Everything is timed in turn, A B C A B C. Prints for each batch size the median of the ratios to the graph as exported.
The core's limit is the time that the multiplications of the network would take at the rate of a large matrix product.
"""

from __future__ import annotations

import statistics
import tempfile
import timeit
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from serving.config import PRETRAINED
from serving.inference.sessions import CPU
from serving.repository.repository import Repository
from training.synthetic import draw_digits

_ROUNDS = 40
_IMAGES_A_ROUND = 512
_SIDE = 512  # of the matrices whose product gives the limit


def main() -> None:
    """Measures and prints."""
    content = Repository(PRETRAINED).load("mnist_convnet", 1).content
    with tempfile.TemporaryDirectory() as folder:
        ahead = Path(folder) / "ahead.onnx"
        _open(content, optimised=ahead)
        ways = {
            "as exported": _open(content),
            "optimised ahead of time": _open(ahead.read_bytes(), level="ORT_DISABLE_ALL"),
            "channels not in blocks": _open(content, level="ORT_ENABLE_EXTENDED"),
            "dense layer as Gemm": _open(_with_gemm(content)),
        }
    product, share = _product(), _multiplications(content) / _SIDE**3
    for rows in (1, 64, 256):
        images = draw_digits(rows, seed=1)[0]
        times: dict[str, list[float]] = {}
        for _ in range(_ROUNDS):
            for name, session in ways.items():
                seconds = _seconds(session, {"images": images}, count=max(1, _IMAGES_A_ROUND // rows))
                times.setdefault(name, []).append(seconds / rows)
            times.setdefault("the core's limit", []).append(share * _seconds(*product, count=4))
        exported = times["as exported"]
        print(f"{rows} images: {statistics.median(exported) * 1e6:.1f} us an image as exported")
        for name, seconds in times.items():
            ratio = statistics.median(one / other for one, other in zip(seconds, exported, strict=True))
            print(f"  {name:24} {ratio:.3f}")


def _open(
    content: bytes, *, level: str = "ORT_ENABLE_ALL", optimised: Path | None = None
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimised:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(content, options, providers=[CPU])


def _with_gemm(content: bytes) -> bytes:
    """The same graph with the dense layer's product and sum as one node, and its weights transposed."""
    model = onnx.load_from_string(content)
    nodes = list(model.graph.node)
    first = [node.op_type for node in nodes].index("MatMul")
    product, total = nodes[first : first + 2]
    weights = next(each for each in model.graph.initializer if each.name == product.input[1])
    bias = next(name for name in total.input if name != product.output[0])
    transposed = np.ascontiguousarray(numpy_helper.to_array(weights).T)
    weights.CopyFrom(numpy_helper.from_array(transposed, weights.name))
    nodes[first : first + 2] = [helper.make_node("Gemm", [*product.input, bias], total.output, transB=1)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString()


def _product() -> tuple[onnxruntime.InferenceSession, dict[str, np.ndarray]]:
    """A matrix product, as a session and its inputs."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [_SIDE, _SIDE]) for name in "ab"],
        [helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [_SIDE, _SIDE])],
    )
    opsets = [helper.make_opsetid("", 17)]
    session = _open(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return session, dict.fromkeys("ab", np.random.default_rng(0).random((_SIDE, _SIDE), np.float32))


def _multiplications(content: bytes) -> int:
    """Multiplications for one image, in the convolutions and dense layers."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
    weights = {each.name: each.dims for each in model.graph.initializer}
    shapes = {
        each.name: [dim.dim_value for dim in each.type.tensor_type.shape.dim[1:]]
        for each in (*model.graph.value_info, *model.graph.output)
    }
    total = 0
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(weights[node.input[1]][1:]))
        elif node.op_type == "MatMul":
            total += int(np.prod(weights[node.input[1]]))
    return total


def _seconds(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray], *, count: int) -> float:
    """Time of one run, in seconds, as the mean of several."""
    return timeit.timeit(lambda: session.run(None, inputs), number=count) / count


if __name__ == "__main__":
    main()
