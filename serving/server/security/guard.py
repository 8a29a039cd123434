"""What every call passes before its request is decoded: who calls, and how many calls are running already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.errors import TooManyCalls, Unauthenticated
from serving.server.security.tokens import TokenFile

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

    def admit(self, context: Any) -> Guard:
        """Gives one call a place, which it gives back at the end of a `with` block.

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
        return self

    def __enter__(self) -> None:
        """The place was taken by `admit`."""

    def __exit__(self, *exception: object) -> None:
        self._calls -= 1
