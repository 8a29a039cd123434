"""Classifies image files.

python examples/python/classify.py [ADDRESS]
"""

import sys
from pathlib import Path

from serving.client import CallFailed, Client

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
paths = sorted(Path("serving/samples").glob("*.png"))

with Client(address) as client:
    try:
        answer = client.classify_files(paths, timeout_s=10)  # the client repeats what may succeed a moment later
    except CallFailed as error:
        sys.exit(f"{address}: {error}")

for path, name, confidence in zip(paths, answer.names, answer.confidences, strict=True):
    print(f"{path}  {name}  {confidence:.2%}")
