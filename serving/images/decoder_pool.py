"""A thread pool that decodes and prepares encoded images off the event loop, with a limit on the waiting work.

A request's images go to the threads in small chunks, so that a single image never waits for a thousand others, nor for
many that take long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from serving.config import DecoderConfig
from serving.errors import DeadlinePassed, InvalidImage, NotReady, QueueFull
from serving.images.preparation import Preparation, PreparedImage

# Limits of a chunk, the work that a thread takes at once. A larger image is a chunk of its own.
_CHUNK_IMAGES = 16
_CHUNK_BYTES = 128 * 1024
# A chunk that has taken this long ends with the image that it is at; what is left of it queues again.
_CHUNK_S = 0.05


class DecoderPool:
    """Decodes and prepares images for one model.

    Args:
        preparation: How to prepare images for the model.
        config: Threads and limits.
        rejected: Called with the reason of each refusal, `decoder_full` or `deadline`.
        clock: Returns seconds since a fixed moment. Deadlines use this clock.
    """

    def __init__(
        self,
        preparation: Preparation,
        config: DecoderConfig,
        *,
        rejected: Callable[[str], None] = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._preparation = preparation
        self._config = config
        self._rejected = rejected
        self._clock = clock
        self._requests = 0
        self._images = 0
        self._bytes = 0
        self._seconds_per_byte = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._executor: ThreadPoolExecutor | None = None

    def start(self) -> None:
        """Starts to accept images. Threads start when they are first needed."""
        self._executor = ThreadPoolExecutor(max_workers=self._config.decoder_threads, thread_name_prefix="decoder")

    def close(self) -> None:
        """Stops the threads after the images that they are decoding. Does not wait for them."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    async def until_idle(self) -> None:
        """Waits until all accepted images are decoded."""
        await self._idle.wait()

    async def decode(
        self, contents: Sequence[bytes], *, deadline: float | None = None
    ) -> list[PreparedImage | InvalidImage]:
        """Decodes and prepares the images of one request. If cancelled, it stops after the chunks in progress.

        Args:
            contents: The bytes of each file.
            deadline: When the caller stops waiting, on the decoder's clock.

        Returns:
            The result for each image, in order.

        Raises:
            QueueFull: Other requests are waiting, and there is no room for all of these images. None was queued.
            DeadlinePassed: The deadline passed before the last image was started.
            NotReady: The decoder has not started, or was closed.
        """
        count, size = len(contents), sum(map(len, contents))
        config = self._config
        if self._requests and (
            self._images + count > config.max_queue_images or self._bytes + size > config.max_queue_bytes
        ):
            self._rejected("decoder_full")
            raise QueueFull(
                f"{self._images} encoded images of {self._bytes} bytes are already waiting",
                retry_after_s=min(5.0, max(0.01, self._bytes * self._seconds_per_byte / config.decoder_threads / 2)),
            )
        self._requests += 1
        self._images += count
        self._bytes += size
        self._idle.clear()
        try:
            return await self._decode(contents, deadline)
        finally:
            self._requests -= 1
            self._images -= count
            self._bytes -= size
            if not self._requests:
                self._idle.set()

    async def _decode(self, contents: Sequence[bytes], deadline: float | None) -> list[PreparedImage | InvalidImage]:
        results: dict[int, list[PreparedImage | InvalidImage]] = {}
        chunks = _chunks(contents)

        async def work() -> None:
            for start, chunk in chunks:
                decoded = results[start] = []
                while len(decoded) < len(chunk):
                    if deadline is not None and self._clock() >= deadline:
                        self._rejected("deadline")
                        raise DeadlinePassed("the deadline passed while the images were being decoded")
                    if self._executor is None:
                        raise NotReady("not accepting images")
                    decoded += await asyncio.get_running_loop().run_in_executor(
                        self._executor, self._decode_chunk, chunk[len(decoded) :]
                    )

        if len(contents) == 1:
            await work()
        else:
            workers = [asyncio.create_task(work()) for _ in range(self._config.decoder_threads)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
        return [result for start in sorted(results) for result in results[start]]

    def _decode_chunk(self, chunk: Sequence[bytes]) -> list[PreparedImage | InvalidImage]:
        """Decodes and prepares a chunk, or its first images if it takes long; on a thread."""
        started = self._clock()
        results: list[PreparedImage | InvalidImage] = []
        for content in chunk:
            try:
                results.append(self._preparation.decode(content))
            except InvalidImage as error:
                results.append(error)
            if self._clock() - started > _CHUNK_S:
                break
        each = (self._clock() - started) / (1 + sum(map(len, chunk[: len(results)])))
        self._seconds_per_byte += (each - self._seconds_per_byte) / 8  # an estimate; a race between threads is harmless
        return results


def _chunks(contents: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Yields the chunks for the threads, each with the index of its first image."""
    start = size = 0
    for index, content in enumerate(contents):
        size += len(content)
        if index > start and (index - start == _CHUNK_IMAGES or size > _CHUNK_BYTES):
            yield start, contents[start:index]
            start, size = index, len(content)
    yield start, contents[start:]
