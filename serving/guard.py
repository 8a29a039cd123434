"""What every call passes before its request is decoded: who calls, and how many calls are running already."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from serving.errors import TooManyCalls, Unauthenticated
from serving.tokens import TokenFile

# How soon a caller that was refused may try again: some hundred calls end within this time.
_RETRY_AFTER_S = 0.1


class Guard:
    """Admits calls to the services that share it.

    Args:
        tokens: A call needs one of these; None where anyone may call.
        max_concurrent_calls: A call beyond is refused at once; None for no limit.
        rejected: Is told the reason of every refusal, `unauthenticated` or `too_many_calls`.
    """

    def __init__(
        self,
        *,
        tokens: TokenFile | None,
        max_concurrent_calls: int | None = None,
        rejected: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._tokens = tokens
        self._rejected = rejected
        self._max_concurrent_calls = max_concurrent_calls
        self._calls = 0

    @contextlib.contextmanager
    def admit(self, context: Any) -> Iterator[None]:
        """Holds one call's place while it runs.

        Args:
            context: The call's; its metadata is used.

        Raises:
            Unauthenticated: It carries no token, several, or one that is not known.
            TooManyCalls: As many as may run are running.
        """
        if self._tokens is not None:
            given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
            try:
                if len(given) != 1:
                    raise Unauthenticated
                self._tokens.check(given[0])
            except Unauthenticated:
                self._rejected("unauthenticated")
                raise
        if self._max_concurrent_calls is not None and self._calls >= self._max_concurrent_calls:
            self._rejected("too_many_calls")
            raise TooManyCalls(f"{self._max_concurrent_calls} calls are running already", retry_after_s=_RETRY_AFTER_S)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
