"""OpenTelemetry traces: a span for every call, in its client's trace, exported with OTLP over HTTP. Extra `otel`."""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import aio_server_interceptor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

_CLOSE_S = 3.0


class Traces:
    """Creates spans and exports them in the background.

    Args:
        endpoint: The collector's address, `http://host:4318`.
    """

    def __init__(self, endpoint: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "digits-serving"}))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))

    @property
    def interceptor(self) -> Any:
        """A `grpc.aio.ServerInterceptor` that creates the spans."""
        return aio_server_interceptor(tracer_provider=self._provider)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Exports the remaining spans; blocks until done, for a few seconds at most."""
        # A daemon thread, since shutdown takes half a minute if the collector does not answer.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_CLOSE_S)
