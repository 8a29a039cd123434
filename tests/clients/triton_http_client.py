"""The same as triton_client.py, over HTTP: python triton_http_client.py ADDRESS DIGITS.npz.

Runs in an environment with tritonclient and without our packages. Exits with 0 if all answers are right.
"""

import asyncio
import sys

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

ADDRESS = sys.argv[1]
DATA = np.load(sys.argv[2])
IMAGES, LABELS = DATA["images"], DATA["labels"]
MODEL = "mnist_convnet"
BLANK = np.zeros((1, 28, 28, 1), np.uint8)


def tensor(images: np.ndarray, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput("images", list(images.shape), "UINT8" if images.dtype == np.uint8 else "FP32")
    made.set_data_from_numpy(images, binary_data=binary)
    return made


def labels_of(result: triton.InferResult) -> list:
    return result.as_numpy("probabilities").argmax(axis=1).tolist()


def in_shared_memory() -> triton.InferInput:
    made = triton.InferInput("images", [1, 28, 28, 1], "UINT8")
    made.set_shared_memory("region", 784)
    return made


# A call of the client's, the status that it must get, and words of the message.
REFUSED = [
    (lambda c: c.infer("resnet", [tensor(BLANK)]), "404", "Request for unknown model: 'resnet' is not found"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], model_version="9"), "404", "Request for unknown model"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], model_version="x"), "400", "model version"),
    (lambda c: c.infer(MODEL, [tensor(BLANK[:, :27])]), "400", "unexpected shape for input 'images'"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)] * 2), "400", "inputs[1]"),
    (lambda c: c.infer(MODEL, []), "400", "expected 1 inputs but got 0 inputs"),
    (lambda c: c.infer(MODEL, [in_shared_memory()]), "400", "shared_memory_region"),
    (lambda c: c.infer(MODEL, [tensor(np.full((1, 28, 28, 1), 0.5, np.float32))]), "400", "steps of 1/255"),
    (lambda c: c.infer(MODEL, [tensor(np.full((1, 28, 28, 1), 0.5, np.float32), False)]), "400", "steps of 1/255"),
    (
        lambda c: c.infer(MODEL, [tensor(BLANK)], outputs=[triton.InferRequestedOutput("label")]),
        "400",
        "unexpected inference output 'label'",
    ),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], priority=1), "400", "priority"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], sequence_id=3), "400", "sequence"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], parameters={"beam": 4}), "400", "beam"),
    (lambda c: c.infer(MODEL, [tensor(IMAGES)], timeout=1), "504", ""),
    (lambda c: c.infer(MODEL, [tensor(np.zeros((25_000, 28, 28, 1), np.uint8))]), "413", "larger than"),
    (lambda c: c.get_model_metadata("resnet"), "404", "unknown model"),
    (lambda c: c.get_model_config(MODEL, "9"), "404", "unknown model"),
    (lambda c: c.get_inference_statistics("resnet"), "404", "unknown model"),
    (lambda c: c.load_model(MODEL), "501", "explicit model load / unload is not allowed"),
    (lambda c: c.unload_model(MODEL), "501", "explicit model load / unload is not allowed"),
    (lambda c: c.get_system_shared_memory_status(), "404", ""),
    (lambda c: c.get_cuda_shared_memory_status(), "404", ""),
    (lambda c: c.get_trace_settings(), "404", ""),
    (lambda c: c.update_log_settings({}), "404", ""),
]


def check(error: InferenceServerException, status: str, said: str) -> None:
    assert error.status() == status, (error.status(), status, error.message())
    assert said in error.message(), error.message()


def check_infer(result: triton.InferResult, rows: int) -> None:
    assert labels_of(result) == LABELS[:rows].tolist()
    assert result.as_numpy("logits").shape == (rows, 10)
    assert result.get_response()["model_version"] == "1"


def synchronous() -> None:
    with triton.InferenceServerClient(ADDRESS, concurrency=8) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready(MODEL, "2")
        assert not client.is_model_ready("resnet")
        assert client.get_server_metadata()["name"] == "digits-serving"
        metadata = client.get_model_metadata(MODEL)
        assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
        assert client.get_model_config(MODEL, "1")["max_batch_size"] == 1024
        (listed,) = client.get_model_repository_index()
        assert (listed["name"], listed["version"], listed["state"]) == (MODEL, "1", "READY")
        (before,) = client.get_inference_statistics(MODEL, "1")["model_stats"]

        result = client.infer(MODEL, [tensor(IMAGES)], request_id="one")
        check_infer(result, len(IMAGES))
        assert result.get_response()["id"] == "one"
        check_infer(client.infer(MODEL, [tensor(IMAGES[:50], binary=False)]), 50)
        scaled = IMAGES[:200].astype(np.float32) / 255
        logits = client.infer(MODEL, [tensor(IMAGES[:200])]).as_numpy("logits")
        for same in (
            client.infer(MODEL, [tensor(scaled)]),
            client.infer(MODEL, [tensor(scaled, binary=False)]),
            client.infer(MODEL, [tensor(IMAGES[:200])], request_compression_algorithm="gzip"),
            client.infer(MODEL, [tensor(IMAGES[:200])], request_compression_algorithm="deflate"),
            client.infer(MODEL, [tensor(IMAGES[:200])], response_compression_algorithm="gzip"),
        ):
            assert np.array_equal(same.as_numpy("logits"), logits)
        for binary in (True, False):
            wanted = [
                triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3),
                triton.InferRequestedOutput("logits", binary_data=not binary),
            ]
            result = client.infer(MODEL, [tensor(IMAGES[:200])], outputs=wanted)
            assert np.array_equal(result.as_numpy("logits"), logits)
            strings = result.as_numpy("probabilities")
            assert strings.shape == (200, 3)
            first = strings[0, 0]
            assert (first.decode() if binary else first).split(":")[1:] == [str(LABELS[0])] * 2
        only = client.infer(MODEL, [tensor(IMAGES[:7])], outputs=[triton.InferRequestedOutput("logits")])
        assert only.as_numpy("probabilities") is None
        assert client.infer(MODEL, [tensor(IMAGES[:7])], timeout=20_000_000).as_numpy("logits") is not None

        asked = [client.async_infer(MODEL, [tensor(IMAGES[n : n + 1])], request_id=str(n)) for n in range(50)]
        for number, request in enumerate(asked):
            result = request.get_result(timeout=20)
            assert result.get_response()["id"] == str(number)
            assert labels_of(result) == [LABELS[number]]
        (after,) = client.get_inference_statistics()["model_stats"]
        assert after["inference_count"] - before["inference_count"] == len(IMAGES) + 50 + 8 * 200 + 2 * 7 + 50
        for call, status, said in REFUSED:
            try:
                call(client)
            except InferenceServerException as error:
                check(error, status, said)
            else:
                raise AssertionError(f"not refused: {said}")


async def asynchronous() -> None:
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        assert (await client.get_model_metadata(MODEL))["versions"] == ["1"]
        assert (await client.get_model_config(MODEL))["name"] == MODEL
        assert await client.get_model_repository_index()
        results = await asyncio.gather(*(client.infer(MODEL, [tensor(IMAGES[n : n + 3])]) for n in range(40)))
        assert [labels_of(result) for result in results] == [LABELS[n : n + 3].tolist() for n in range(40)]
        assert (await client.get_inference_statistics())["model_stats"][0]["inference_count"] > 0
        for call, status, said in REFUSED:
            try:
                await call(client)
            except InferenceServerException as error:
                check(error, status, said)
            else:
                raise AssertionError(f"not refused: {said}")


synchronous()
asyncio.run(asynchronous())
print("tritonclient is content")
