"""Load reports, as ORCA (Open Request Cost Aggregation) has them: with each answer that asks, and on a stream.

Balancers such as Envoy and gRPC's weighted round robin give a server calls by what it reports: requests per second,
divided by utilisation. See https://github.com/grpc/proposal/blob/master/A51-custom-backend-metrics.md.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable

from google.protobuf import json_format

from protos.orca import load_report_pb2 as pb
from serving.errors import NotReady
from serving.server.services.handlers import LOAD_FORMAT_KEY, STOPPING, Context, Metadata
from serving.server.telemetry.load import Load

_SHORTEST_INTERVAL_S = 1.0


class LoadReports:
    """Reports the load of this server. Also the servicer of the service that streams reports.

    Args:
        load: Returns the load.
        draining: Set when the server stops.
    """

    DESCRIPTOR = pb.DESCRIPTOR.services_by_name["LoadReportService"]
    NAME = "xds.service.orca.v3.OpenRcaService"

    def __init__(self, load: Callable[[], Load], draining: asyncio.Event) -> None:
        self._load = load
        self._draining = draining

    def metadata(self, context: Context) -> Metadata:
        """Returns what ends an answer: the report in the format that the call asks for, or nothing.

        There is nothing either until the first requests have been measured, half a second after the start: a balancer
        can't weigh a server that reports no requests, and Envoy logs an error.
        """
        load = self._load()
        if not load.requests_per_s:
            return ()
        asked = next((value for key, value in context.invocation_metadata() or () if key == LOAD_FORMAT_KEY), "")
        return _metadata(load, asked.lower()) if isinstance(asked, str) else ()

    async def StreamCoreMetrics(  # noqa: N802
        self, request: pb.LoadReportRequest, context: Context
    ) -> AsyncIterator[pb.LoadReport]:
        """Sends a report at once and then at each interval, until the client leaves or the server stops."""
        interval = request.report_interval
        interval_s = max(_SHORTEST_INTERVAL_S, interval.seconds + interval.nanos * 1e-9)
        while not self._draining.is_set():
            yield _message(self._load())
            try:
                await asyncio.wait_for(self._draining.wait(), interval_s)
            except TimeoutError:
                continue
        raise NotReady(STOPPING)


def _message(load: Load) -> pb.LoadReport:
    return pb.LoadReport(
        cpu_utilization=load.processors_busy,
        rps_fractional=load.requests_per_s,
        eps=load.errors_per_s,
        named_metrics={"engine_busy": load.engine_busy, "queue_seconds": load.queue_s},
        application_utilization=load.utilization,
    )


@functools.lru_cache(maxsize=3)  # many calls end between two measurements
def _metadata(load: Load, form: str) -> Metadata:
    if form == "bin":
        return (("endpoint-load-metrics-bin", _message(load).SerializeToString()),)
    if form == "json":
        document = json_format.MessageToJson(_message(load), preserving_proto_field_name=True, indent=None)
        return (("endpoint-load-metrics", f"JSON {document}"),)
    if form == "text":
        return (("endpoint-load-metrics", f"TEXT {_as_text(_message(load))}"),)
    return ()


def _as_text(report: pb.LoadReport) -> str:
    """Formats a report as Envoy parses it: `name=value` pairs, with a dot before the key of a map."""
    pairs: list[str] = []
    for field, value in report.ListFields():
        if field.name == "named_metrics":
            pairs += (f"named_metrics.{name}={each}" for name, each in sorted(value.items()))
        else:
            pairs.append(f"{field.name}={value}")
    return ", ".join(pairs)
