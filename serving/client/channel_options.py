"""Options of a client's channel: which calls gRPC repeats by itself, and how soon it connects again."""

from __future__ import annotations

import json
from typing import Any

# CANCELLED is what grpcio's server tells calls that no handler has seen when it shuts down (grpc/grpc#41785). Pauses of
# 0.1, 0.3, 0.9 and 2 seconds outlast a worker's start.
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
# What a message has beside its pixels, at most.
_ENVELOPE_BYTES = 64 * 1024


def channel_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    """Options of the channel.

    gRPC repeats a call only while it holds the whole request, by default up to 256 KiB: a larger one whose server dies
    would fail at once. There are never more than a few on their way. And by default it waits a second before it
    connects again, then ever longer, which is most of the time that calls are repeated for.

    Args:
        max_message_bytes: Of the largest request, in bytes, but for its envelope.
    """
    return [
        ("grpc.service_config", _SERVICE_CONFIG),
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + _ENVELOPE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
