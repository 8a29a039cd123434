"""The gRPC calls of a server that have not ended yet, so that it can stop as soon as none is left."""

from __future__ import annotations

import asyncio
from typing import Any


class OpenCalls:
    """Counts calls from the start of their handler until gRPC has sent the whole answer, which is after its end."""

    def __init__(self) -> None:
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    def add(self, context: Any) -> None:
        """Counts a call, given the `grpc.aio.ServicerContext` of its handler."""
        self._count += 1
        self._none.clear()
        context.add_done_callback(self._ended)

    async def until_none(self) -> None:
        """Returns once there is no such call."""
        await self._none.wait()

    def _ended(self, _: Any) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()
