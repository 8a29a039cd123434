"""Calls every method of tritonclient that the server supports: python triton_client.py ADDRESS DIGITS.npz.

Runs in an environment with tritonclient and without our packages. Exits with 0 if all answers are right.
"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

ADDRESS = sys.argv[1]
DATA = np.load(sys.argv[2])
IMAGES, LABELS = DATA["images"], DATA["labels"]
MODEL = "mnist_convnet"
BLANK = np.zeros((1, 28, 28, 1), np.uint8)


def tensor(images: np.ndarray) -> triton.InferInput:
    made = triton.InferInput("images", list(images.shape), "UINT8" if images.dtype == np.uint8 else "FP32")
    made.set_data_from_numpy(images)
    return made


def labels_of(result: triton.InferResult) -> list:
    return result.as_numpy("probabilities").argmax(axis=1).tolist()


def refusal(call) -> InferenceServerException:
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("not refused")


async def refusal_aio(call) -> InferenceServerException:
    try:
        await call
    except InferenceServerException as error:
        return error
    raise AssertionError("not refused")


# A call of the client's, the code that it must get, and words of the message.
REFUSED = [
    (lambda c: c.infer("resnet", [tensor(BLANK)]), "NOT_FOUND", "Request for unknown model: 'resnet' is not found"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], model_version="9"), "NOT_FOUND", "Request for unknown model"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], model_version="x"), "INVALID_ARGUMENT", "model version"),
    (lambda c: c.infer(MODEL, [tensor(BLANK[:, :27])]), "INVALID_ARGUMENT", "unexpected shape for input 'images'"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)] * 2), "INVALID_ARGUMENT", "inputs[1]"),
    (lambda c: c.infer(MODEL, []), "INVALID_ARGUMENT", "expected 1 inputs but got 0 inputs"),
    (
        lambda c: c.infer(MODEL, [tensor(BLANK)], outputs=[triton.InferRequestedOutput("label")]),
        "INVALID_ARGUMENT",
        "unexpected inference output 'label'",
    ),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], priority=1), "INVALID_ARGUMENT", "priority"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], sequence_id=3), "INVALID_ARGUMENT", "sequence"),
    (lambda c: c.infer(MODEL, [tensor(BLANK)], parameters={"beam": 4}), "INVALID_ARGUMENT", "beam"),
    (lambda c: c.infer(MODEL, [tensor(IMAGES)], timeout=1), "DEADLINE_EXCEEDED", ""),
    (lambda c: c.infer(MODEL, [tensor(IMAGES)], client_timeout=1e-4), "DEADLINE_EXCEEDED", ""),
    (lambda c: c.infer(MODEL, [tensor(np.zeros((25_000, 28, 28, 1), np.uint8))]), "RESOURCE_EXHAUSTED", "larger than"),
    (lambda c: c.get_model_metadata("resnet"), "NOT_FOUND", "unknown model"),
    (lambda c: c.get_model_config(MODEL, "9"), "NOT_FOUND", "unknown model"),
    (lambda c: c.get_inference_statistics("resnet"), "NOT_FOUND", "unknown model"),
    (lambda c: c.load_model(MODEL), "UNIMPLEMENTED", "explicit model load / unload is not allowed"),
    (lambda c: c.unload_model(MODEL), "UNIMPLEMENTED", "explicit model load / unload is not allowed"),
    (lambda c: c.get_system_shared_memory_status(), "UNIMPLEMENTED", ""),
    (lambda c: c.register_system_shared_memory("a", "/a", 10), "UNIMPLEMENTED", ""),
    (lambda c: c.get_cuda_shared_memory_status(), "UNIMPLEMENTED", ""),
    (lambda c: c.get_trace_settings(), "UNIMPLEMENTED", ""),
    (lambda c: c.update_log_settings({}), "UNIMPLEMENTED", ""),
]


def check(error: InferenceServerException, code: str, said: str) -> None:
    assert error.status() == f"StatusCode.{code}", (error.status(), code, error.message())
    assert said in error.message(), error.message()


def in_shared_memory() -> triton.InferInput:
    made = triton.InferInput("images", [1, 28, 28, 1], "UINT8")
    made.set_shared_memory("region", 784)
    return made


def synchronous() -> None:
    with triton.InferenceServerClient(ADDRESS) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(MODEL)
        assert client.is_model_ready(MODEL, "1")
        assert not client.is_model_ready(MODEL, "2")
        assert not client.is_model_ready("resnet")
        assert client.get_server_metadata().name == "digits-serving"
        metadata = client.get_model_metadata(MODEL, as_json=True)
        assert metadata["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": ["-1", "28", "28", "1"]}]
        assert [output["name"] for output in metadata["outputs"]] in (
            ["logits", "probabilities"],
            ["logits", "probabilities", "no_digit"],  # of a network that knows what is no digit
        )
        config = client.get_model_config(MODEL).config
        assert config.max_batch_size == 1024
        assert [*config.input[0].dims] == [28, 28, 1]
        assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
        (listed,) = client.get_model_repository_index().models
        assert (listed.name, listed.version, listed.state) == (MODEL, "1", "READY")

        before = client.get_inference_statistics(MODEL).model_stats[0]
        result = client.infer(MODEL, [tensor(IMAGES)], request_id="one")
        assert result.get_response().id == "one"
        assert result.get_response().model_version == "1"
        assert labels_of(result) == LABELS.tolist()
        assert result.as_numpy("logits").shape == (len(IMAGES), 10)
        scaled = client.infer(MODEL, [tensor(IMAGES[:200].astype(np.float32) / 255)])
        again = client.infer(MODEL, [tensor(IMAGES[:200])], compression_algorithm="gzip")
        assert np.array_equal(scaled.as_numpy("logits"), again.as_numpy("logits"))
        after = client.get_inference_statistics(MODEL, "1").model_stats[0]
        assert after.inference_count - before.inference_count == len(IMAGES) + 400
        assert after.inference_stats.success.count - before.inference_stats.success.count == 3
        assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns

        wanted = [triton.InferRequestedOutput("probabilities", class_count=3), triton.InferRequestedOutput("logits")]
        result = client.infer(MODEL, [tensor(IMAGES[:7])], outputs=wanted)
        strings = result.as_numpy("probabilities")
        assert strings.shape == (7, 3)
        confidence, index, label = strings[0, 0].decode().split(":")
        assert (index, label) == (str(LABELS[0]), str(LABELS[0]))
        assert 0.1 < float(confidence) <= 1
        only = client.infer(MODEL, [tensor(IMAGES[:7])], outputs=[triton.InferRequestedOutput("logits")])
        assert only.as_numpy("probabilities") is None
        assert client.infer(MODEL, [tensor(IMAGES[:7])], timeout=20_000_000).as_numpy("logits") is not None

        answers: queue.Queue = queue.Queue()
        for number in range(50):
            client.async_infer(
                MODEL,
                [tensor(IMAGES[number : number + 1])],
                callback=lambda result, error: answers.put((result, error)),
                request_id=str(number),
            )
        for _ in range(50):
            result, error = answers.get(timeout=20)
            assert error is None, error
            assert labels_of(result) == [LABELS[int(result.get_response().id)]]

        for call, code, said in REFUSED:
            check(refusal(lambda call=call: call(client)), code, said)
        check(refusal(lambda: client.infer(MODEL, [in_shared_memory()])), "INVALID_ARGUMENT", "shared_memory_region")
        half = tensor(np.full((1, 28, 28, 1), 0.5, np.float32))
        check(refusal(lambda: client.infer(MODEL, [half])), "INVALID_ARGUMENT", "steps of 1/255")


def streaming() -> None:
    answers: queue.Queue = queue.Queue()
    with triton.InferenceServerClient(ADDRESS) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(60):
            client.async_stream_infer(
                MODEL, [tensor(IMAGES[number : number + 2])], request_id=str(number), enable_empty_final_response=True
            )
            client.async_stream_infer("resnet", [tensor(BLANK)])
        client.stop_stream()  # waits for the answers
    for number in range(60):
        result, error = answers.get_nowait()
        assert error is None, error
        assert result.get_response().id == str(number)
        assert result.get_response().parameters["triton_final_response"].bool_param
        assert labels_of(result) == LABELS[number : number + 2].tolist()
        result, error = answers.get_nowait()
        assert "unknown model" in error.message()
    assert answers.empty()


async def asynchronous() -> None:
    async with triton_aio.InferenceServerClient(ADDRESS) as client:
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready(MODEL)
        assert (await client.get_model_metadata(MODEL)).versions == ["1"]
        assert (await client.get_model_config(MODEL)).config.name == MODEL
        assert (await client.get_model_repository_index()).models
        results = await asyncio.gather(*(client.infer(MODEL, [tensor(IMAGES[n : n + 3])]) for n in range(40)))
        assert [labels_of(result) for result in results] == [LABELS[n : n + 3].tolist() for n in range(40)]
        assert (await client.get_inference_statistics()).model_stats[0].inference_count > 0
        for call, code, said in REFUSED:
            check(await refusal_aio(call(client)), code, said)

        async def requests():
            for number in range(20):
                yield {"model_name": MODEL, "inputs": [tensor(IMAGES[number : number + 1])], "request_id": str(number)}
                yield {"model_name": MODEL, "inputs": [tensor(BLANK[:, 1:])]}

        number = 0
        async for result, error in client.stream_infer(requests()):
            if number % 2:
                assert "unexpected shape" in error.message()
            else:
                assert error is None, error
                assert result.get_response().id == str(number // 2)
                assert labels_of(result) == [LABELS[number // 2]]
            number += 1
        assert number == 40


synchronous()
streaming()
asyncio.run(asynchronous())
print("tritonclient is content")
