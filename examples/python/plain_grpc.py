"""Classifies image files with grpcio and the generated stubs only: nothing of `serving` is imported.

python examples/python/plain_grpc.py [ADDRESS]

In a project of your own, generate the stubs: pip install grpcio grpcio-tools, copy protos/digits/v1/digits.proto, and
python -m grpc_tools.protoc --proto_path=. --python_out=. --grpc_python_out=. protos/digits/v1/digits.proto
"""

import json
import sys
from pathlib import Path

import grpc

from protos.digits.v1 import digits_pb2, digits_pb2_grpc

# gRPC repeats a call that found no server, or one that was stopping.
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "digits.v1.DigitClassifierService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
paths = sorted(Path("serving/samples").glob("*.png"))
images = digits_pb2.EncodedImages(images=[path.read_bytes() for path in paths])

with grpc.insecure_channel(address, [("grpc.service_config", json.dumps(RETRIES))]) as channel:
    stub = digits_pb2_grpc.DigitClassifierServiceStub(channel)
    try:
        names = stub.GetModel(digits_pb2.GetModelRequest(), timeout=10).labels
        answer = stub.Classify(digits_pb2.ClassifyRequest(encoded_images=images), timeout=10)
    except grpc.RpcError as error:
        sys.exit(f"{address}: {error.code().name}: {error.details()}")

for path, label, confidence in zip(paths, answer.labels, answer.confidences, strict=True):
    print(f"{path}  {names[label]}  {confidence:.2%}")
