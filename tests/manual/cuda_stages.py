"""Where the time of a run on CUDA goes: staging, the graph, and what the copies would cost instead of pinned memory.

Prints one line for each batch size, in microseconds; medians of seven rounds.
"""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable

import numpy as np
import onnxruntime

from serving.config import PRETRAINED, EngineConfig
from serving.inference.engine import Engine
from serving.inference.sessions import CUDA, RUNTIME_VERSION
from serving.repository.repository import Repository
from training.synthetic import draw_digits

_ROUNDS = 7


def main() -> None:
    """Measures every bucket of the shipped model."""
    stored = Repository(PRETRAINED).load("mnist_convnet", 1)
    shape, classes = stored.manifest.input.shape, len(stored.manifest.labels)
    engine = Engine(stored.content, image_shape=shape, classes=classes, config=EngineConfig(provider="cuda"))
    engine.start()
    images = draw_digits(engine.batch_rows, seed=1)[0]
    copying = onnxruntime.InferenceSession(stored.content, providers=[(CUDA, {"use_tf32": "0"})])
    print(
        f"ONNX Runtime {RUNTIME_VERSION}, us a run. all: staging, graph and the rest; plain: with copies, without graph"
    )
    for rows in engine.fixed_sizes:
        times = _stages(engine, copying, images[:rows])
        per_s = rows / times["all"] * 1e6
        print(f"{rows:5} rows", *(f"{name} {us:8.1f}" for name, us in times.items()), f"{per_s:12,.0f} images/s")


def _stages(engine: Engine, copying: onnxruntime.InferenceSession, batch: np.ndarray) -> dict[str, float]:
    bucket = engine._buckets._buckets[len(batch)]
    return {
        "all": _us(lambda: engine.infer(batch)),
        "staging": _us(lambda: np.copyto(bucket.images, batch)),
        "graph": _us(lambda: engine._session.run_with_iobinding(bucket.binding, bucket.options)),
        "plain": _us(lambda: copying.run(None, {"images": batch})),
    }


def _us(run: Callable[[], object]) -> float:
    run()
    number, _ = timeit.Timer(run).autorange()
    return statistics.median(timeit.repeat(run, number=max(1, number // 4), repeat=_ROUNDS)) / max(1, number // 4) * 1e6


if __name__ == "__main__":
    main()
