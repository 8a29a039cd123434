"""Classifies many requests on one stream. One of them is no image: it gets its error, and the stream goes on.

python examples/python/stream.py [ADDRESS]
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
paths = [Path("LICENSE"), *sorted(Path("serving/samples").glob("*.png"))]


def requests() -> Iterator[digits_pb2.ClassifyStreamRequest]:
    """Reads each file when gRPC is ready to send it."""
    for path in paths:
        images = digits_pb2.EncodedImages(images=[path.read_bytes()])
        yield digits_pb2.ClassifyStreamRequest(request=digits_pb2.ClassifyRequest(encoded_images=images))


with grpc.insecure_channel(address) as channel:
    stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
    try:
        # The deadline is for the whole stream. Responses come in the order of the requests.
        for path, answer in zip(paths, stub.ClassifyStream(requests(), timeout=10), strict=True):
            if answer.HasField("error"):
                print(f"{path}  {answer.error.message}")
            else:
                print(f"{path}  {answer.response.labels[0]}  {answer.response.confidences[0]:.2%}")
    except grpc.RpcError as error:
        sys.exit(f"{address}: {error.code().name}: {error.details()}")
