"""The standard health service, `grpc.health.v1.Health`: SERVING from the end of the warm-up until SIGTERM."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from serving.errors import NotReady
from serving.server.services.handlers import STOPPING, Context


class Health(aio.HealthServicer):  # type: ignore[misc]
    """The health of the process and of each service. All share one status, since all need the models.

    Args:
        services: Full names of the services. The empty name, which stands for the process, is added.

    Attributes:
        draining: Set when the server stops.
    """

    DESCRIPTOR = health_pb2.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, services: tuple[str, ...]) -> None:
        super().__init__()
        self.draining = asyncio.Event()
        # The library reports SERVING for "" from the start, but before the warm-up nothing is served.
        self._server_status = dict.fromkeys(("", *services), health_pb2.HealthCheckResponse.NOT_SERVING)

    async def set_serving(self) -> None:
        """Reports SERVING for everything."""
        for service in list(self._server_status):
            await self.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Reports NOT_SERVING for good, and ends the watches, which would otherwise last for the whole grace period."""
        # The watches first: one whose client does not read may hold the lock that the next line needs.
        self.draining.set()
        await self.enter_graceful_shutdown()

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """Sends every change of a service's health until the client leaves or the server stops."""
        watching = asyncio.create_task(super().Watch(request, context))
        draining = asyncio.create_task(self.draining.wait())
        try:
            await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
        finally:
            watching.cancel()
            draining.cancel()
        # Sent here, since the watch may have been cancelled before it could; sending it twice does no harm.
        await asyncio.wait({watching})
        await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))
        raise NotReady(STOPPING)

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        """Returns the health of every service."""
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )
