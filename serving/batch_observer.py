"""Who is told what the batcher does."""

from __future__ import annotations

from collections.abc import Sequence


class BatchObserver:
    """Is told what the batcher does; does nothing by itself. Called on the event loop."""

    def queue_changed(self, rows: int) -> None:
        """So many images wait now; told when a batch begins and when somebody gives up."""

    def batch_ended(self, rows: int, inference_s: float, queue_s: Sequence[float]) -> None:
        """A batch was run.

        Args:
            rows: Images in it.
            inference_s: Time in the engine, in seconds.
            queue_s: For each request that began with it, the time that it had waited, in seconds.
        """

    def rejected(self, reason: str) -> None:
        """A request was refused or dropped before the engine: `queue_full` or `deadline`."""
