"""When a failed call is made again.

gRPC's own retry policy handles servers that are unavailable, for up to about three seconds. It neither reads RetryInfo
nor waits longer than its backoff, so the pause that a server with a full queue asks for is ours.
"""

from __future__ import annotations

import json
from typing import Any

import grpc
from google.rpc import error_details_pb2

from serving.client.call_errors import CallFailed, call_failed, rich_status

# CANCELLED is what grpcio's server reports for calls that no handler has seen when it shuts down (grpc/grpc#41785).
# Pauses of 0.1, 0.3, 0.9 and 2 seconds outlast the start of a worker.
_SERVICE_CONFIG = json.dumps(
    {
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
)
_HEALTH_PAUSE_S = 0.1
# The most that a message holds in addition to its pixels.
_ENVELOPE_BYTES = 64 * 1024


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Returns the options of a channel that retries and reconnects quickly.

    gRPC retries a call only while it buffers the whole request, by default up to 256 KiB. Without a larger buffer, a
    large request would fail at once when its server dies. gRPC's default pause before it reconnects is a second and
    grows, which would take most of the time for retries.

    Args:
        max_message_bytes: Size of the largest request without its envelope, in bytes.
    """
    return [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _ENVELOPE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


def pause_before_retry(error: grpc.RpcError, remaining_s: float) -> float:
    """Returns the pause that the server asks for, in seconds.

    Raises:
        CallFailed: The server does not ask for a retry, or the pause is longer than the remaining time.
    """
    status = rich_status(error)
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and status is not None:
        for detail in status.details:
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(retry):
                pause: float = retry.retry_delay.ToTimedelta().total_seconds()
                if pause < remaining_s:
                    return pause
    raise call_failed(error) from error


class HealthWait:
    """What was seen while waiting for a server that may not have started yet.

    The wait asks again whenever there is no connection. gRPC could do that itself, but would not say why there is none.

    Attributes:
        answered: Whether the server reported any health.
    """

    def __init__(self) -> None:
        self.answered = False
        self._last: CallFailed | None = None

    def pause_s(self, error: grpc.RpcError, remaining_s: float) -> float:
        """Returns how long to wait before the server is asked again, in seconds.

        Raises:
            CallFailed: The time is over, or the server went away or refused to answer.
        """
        failed = call_failed(error)
        if failed.code is grpc.StatusCode.DEADLINE_EXCEEDED and self.answered:
            raise CallFailed(failed.code, "the server answers, but did not report SERVING within the time") from error
        if failed.code is grpc.StatusCode.UNAVAILABLE and not self.answered:
            self._last = failed
            if remaining_s > _HEALTH_PAUSE_S:
                return _HEALTH_PAUSE_S
        raise self._last or failed from error
