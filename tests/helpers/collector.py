"""An HTTP server that keeps what it receives, as an OpenTelemetry collector does."""

from __future__ import annotations

import contextlib
import http.server
import queue
import threading
from collections.abc import Iterator

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@contextlib.contextmanager
def run_collector() -> Iterator[tuple[str, queue.Queue[tuple[str, bytes]]]]:
    """Its address, and path and body of every request."""
    received: queue.Queue[tuple[str, bytes]] = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.put((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", received
        finally:
            server.shutdown()


def spans_of(body: bytes) -> list[tuple[str, Span]]:
    """The spans of a request, each with the name of the service that exported it."""
    return [
        (next(each.value.string_value for each in resource.resource.attributes if each.key == "service.name"), span)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
