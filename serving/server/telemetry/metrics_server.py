"""The metrics port: serves the metrics of a registry at `/metrics`, for Prometheus."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Sequence
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

# How often a thread looks whether it must end. Closing the port takes about this long.
_POLL_S = 0.05
# A client that sends nothing must not occupy a thread for ever.
_TIMEOUT_S = 10.0

_logger = logging.getLogger(__name__)


class MetricsServer:
    """Serves metrics in threads of its own, so that they can be read while the event loop is busy.

    prometheus_client's own server listens on the first address of a host only, prints tracebacks of clients that leave,
    and takes half a second to close.

    Args:
        registry: The metrics.
        sockets: Bound to the addresses to listen on.
    """

    def __init__(self, registry: CollectorRegistry, sockets: Sequence[socket.socket]) -> None:
        application = make_wsgi_app(registry)
        self._servers = [_Server(bound, application) for bound in sockets]
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(_POLL_S,), daemon=True) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        host, port = sockets[0].getsockname()[:2]
        _logger.info("metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)

    def close(self) -> None:
        """Stops listening."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, bound: socket.socket, application: Any) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # the one that the base class makes
        self.socket = bound
        self.server_name, self.server_port = bound.getsockname()[:2]
        self.setup_environ()
        self.set_app(application)
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _logger.debug("a request for metrics from %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, *_: object) -> None:
        """Logs nothing: metrics are read every few seconds."""
