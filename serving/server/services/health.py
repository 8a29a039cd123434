"""The standard health service, `grpc.health.v1.Health`: NOT_SERVING until the model is warm and from SIGTERM on."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from serving.errors import NotReady
from serving.server.services.handlers import Context


class Health(aio.HealthServicer):  # type: ignore[misc]
    """Health of the process and of each service; all share one state, since all depend on the same model.

    Args:
        services: Full names of the services; the empty name, for the process, is added.

    Attributes:
        draining: Set once the server stops for good.
    """

    DESCRIPTOR = health_pb2.DESCRIPTOR.services_by_name["Health"]

    def __init__(self, services: tuple[str, ...]) -> None:
        super().__init__()
        self.draining = asyncio.Event()
        # The library starts with "" as SERVING: before the warm-up that would be a lie.
        self._server_status = dict.fromkeys(("", *services), health_pb2.HealthCheckResponse.NOT_SERVING)

    async def set_serving(self) -> None:
        """Reports SERVING for everything."""
        for service in list(self._server_status):
            await self.set(service, health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Reports NOT_SERVING for good and ends the watches, which would otherwise last as long as the grace period."""
        # First the watches, since one whose client does not read may hold the lock that the other needs.
        self.draining.set()
        await self.enter_graceful_shutdown()

    async def Watch(self, request: Any, context: Context) -> None:  # noqa: N802
        """Reports every change of a service's health until the client or the server ends it."""
        watching = asyncio.create_task(super().Watch(request, context))
        draining = asyncio.create_task(self.draining.wait())
        try:
            await asyncio.wait({watching, draining}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching
        finally:
            watching.cancel()
            draining.cancel()
        # Said here, since the watch may not have had its turn; a status that is said twice does no harm.
        await asyncio.wait({watching})
        await context.write(health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))
        raise NotReady("the server is stopping")

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802
        """Reports the health of everything at once."""
        return health_pb2.HealthListResponse(
            statuses={
                service: health_pb2.HealthCheckResponse(status=status)
                for service, status in self._server_status.items()
            }
        )
