"""Many images that take long do not hold up the image of another request."""

from __future__ import annotations

import asyncio
import itertools

from serving.config import SAMPLES, DecoderConfig
from serving.images.decoder_pool import DecoderPool
from serving.images.preparation import Preparation, PreparedImage


async def test_an_image_waits_for_one_slow_image_of_another_request_and_not_for_all() -> None:
    """On a clock on which every image takes a second."""
    preparation = Preparation(kind="mnist", height=28, width=28, channels=1)
    seconds = itertools.count()
    pool = DecoderPool(preparation, DecoderConfig(decoder_threads=1), clock=lambda: float(next(seconds)))
    pool.start()
    try:
        files = [(SAMPLES / f"{digit}.png").read_bytes() for digit in range(10)]
        ended: list[str] = []

        async def decode(name: str, contents: list[bytes]) -> list:
            found = await pool.decode(contents)
            ended.append(name)
            return found

        many, one = await asyncio.gather(decode("many", files), decode("one", files[:1]))
        assert ended == ["one", "many"]
        expected = [preparation.decode(content) for content in files]
        assert [image.pixels.tobytes() for image in many] == [image.pixels.tobytes() for image in expected]
        assert isinstance(one[0], PreparedImage)
    finally:
        pool.close()
