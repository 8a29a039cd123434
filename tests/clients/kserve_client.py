"""Calls the server with KServe's client: python kserve_client.py ADDRESS DIGITS.npz."""

import asyncio
import sys

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

MODEL = "mnist_convnet"


def request(images: np.ndarray, *, binary: bool, name: str = MODEL) -> InferRequest:
    datatype = "UINT8" if images.dtype == np.uint8 else "FP32"
    tensor = InferInput("images", list(images.shape), datatype)
    tensor.set_data_from_numpy(images, binary_data=binary)
    return InferRequest(model_name=name, infer_inputs=[tensor], request_id="seven")


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def main(address: str, data: str) -> None:
    digits = np.load(data)
    images, labels = digits["images"][:64], digits["labels"][:64]
    client = InferenceGRPCClient(address)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready(MODEL)
    assert not await client.is_model_ready("resnet")
    for made in (images, images.astype(np.float32) / 255):
        for binary in (True, False):
            answer = await client.infer(request(made, binary=binary))
            assert answer.id == "seven"
            assert answer.model_name == MODEL
            (output,) = [found for found in answer.outputs if found.name == "probabilities"]
            assert output.as_numpy().argmax(axis=1).tolist() == labels.tolist(), (made.dtype, binary)
    for bad, code in [
        (request(images, binary=True, name="resnet"), grpc.StatusCode.NOT_FOUND),
        (request(images[:, 1:], binary=True), grpc.StatusCode.INVALID_ARGUMENT),
    ]:
        assert await code_of(client.infer(bad)) is code
    await client.close()
    print("KServe is content")


asyncio.run(main(*sys.argv[1:]))
