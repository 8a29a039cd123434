"""How large the messages of a server may be: they hold the largest batch of every model that it starts with."""

from __future__ import annotations

from collections.abc import Sequence

from serving.config import ServerConfig
from serving.errors import InvalidConfig
from serving.repository.repository import StoredModel
from serving.rollout.rollout import Rollout

# Space in a message for everything except pixels: names, options, tags.
ENVELOPE_BYTES = 64 * 1024
# The tag and the length of each encoded image.
_FIELD_BYTES = 8
_LARGEST_MESSAGE = 2**31


def max_request_images(config: ServerConfig, rollout: Rollout, stored: StoredModel) -> int:
    """Returns how many images one request for a model may contain."""
    room = (rollout.max_request_bytes - ENVELOPE_BYTES) // stored.manifest.input.image_bytes
    return max(1, min(config.batcher.max_batch_rows, room))


def max_request_bytes(config: ServerConfig, models: Sequence[StoredModel]) -> int:
    """Returns the size of the largest request for any of several models.

    Raises:
        InvalidConfig: It is more than gRPC can carry.
    """
    rows = config.batcher.max_batch_rows
    image_bytes = max(stored.manifest.input.image_bytes for stored in models)
    largest = max(image_bytes * rows, config.decoder.max_encoded_bytes + _FIELD_BYTES * rows) + ENVELOPE_BYTES
    if largest >= _LARGEST_MESSAGE:
        raise InvalidConfig(
            f"max_batch_rows: {rows} images of {image_bytes} bytes, or max_encoded_bytes: "
            f"{config.decoder.max_encoded_bytes}, are more than gRPC's largest message holds, 2 GiB"
        )
    return largest
