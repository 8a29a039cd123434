"""Many images that take long do not hold up the image of another request."""

from __future__ import annotations

import asyncio
import itertools
import threading

from serving.config import SAMPLES, DecoderConfig
from serving.errors import InvalidImage
from serving.images.decoder_pool import DecoderPool
from serving.images.preparation import Preparation, PreparedImage


async def test_an_image_waits_for_one_slow_image_of_another_request_and_not_for_all() -> None:
    """On a clock on which every image takes a second."""
    order: list[bytes] = []
    began, both_wait = threading.Event(), threading.Event()

    class Recording(Preparation):
        def decode(self, content: bytes) -> PreparedImage:
            order.append(content)
            began.set()
            assert both_wait.wait(20)
            return super().decode(content)

    preparation = Recording(kind="mnist", height=28, width=28, channels=1)
    seconds = itertools.count()
    pool = DecoderPool(preparation, DecoderConfig(decoder_threads=1), clock=lambda: float(next(seconds)))
    pool.start()
    try:
        files = [(SAMPLES / f"{digit}.png").read_bytes() for digit in range(10)]
        assert sum(map(len, files)) < 1 << 17  # one chunk
        decoding_many = asyncio.create_task(pool.decode(files[1:]))
        assert await asyncio.to_thread(began.wait, 20)
        decoding_one = asyncio.create_task(pool.decode(files[:1]))
        await asyncio.sleep(0)  # until it has given its image to the thread
        both_wait.set()
        many, one = await decoding_many, await decoding_one
    finally:
        pool.close()
    assert order.index(files[0]) == 1
    assert [content for content in order if content != files[0]] == files[1:]
    expected = [preparation.decode(content) for content in files]
    for found, wanted in zip([*one, *many], expected, strict=True):
        assert not isinstance(found, InvalidImage)
        assert found.pixels.tobytes() == wanted.pixels.tobytes()
