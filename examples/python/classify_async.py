"""Classifies image files with asyncio, each in a call of its own; the server batches what arrives together.

python examples/python/classify_async.py [ADDRESS]
"""

import asyncio
import sys
from pathlib import Path

from serving.client import AsyncClient, CallFailed

address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
paths = sorted(Path("serving/samples").glob("*.png"))


async def main() -> None:
    """Makes all calls at once and prints the answers in the order of the files."""
    async with AsyncClient(address) as client:
        try:
            answers = await asyncio.gather(*(client.classify_files(path, timeout_s=10) for path in paths))
        except CallFailed as error:
            sys.exit(f"{address}: {error}")
    for path, answer in zip(paths, answers, strict=True):
        print(f"{path}  {answer.names[0]}  {answer.confidences[0]:.2%}")


asyncio.run(main())
