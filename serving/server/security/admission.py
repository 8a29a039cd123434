"""Admission control: each call is authenticated and counted before its request is decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from serving.errors import TooManyCalls, Unauthenticated
from serving.server.security.tokens import TokenFile

# When a refused caller may try again. Some hundred calls end within this time.
_RETRY_AFTER_S = 0.1


class AdmissionControl:
    """Admits calls. The services that share one also share its limit.

    Args:
        tokens: Each call must carry one of these; None admits everyone.
        max_concurrent_calls: Further calls are refused at once; None for no limit.
        on_rejected: Called with the reason of each refusal, `unauthenticated` or `too_many_calls`.
    """

    def __init__(
        self,
        *,
        tokens: TokenFile | None,
        max_concurrent_calls: int | None = None,
        on_rejected: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._tokens = tokens
        self._on_rejected = on_rejected
        self._max_concurrent_calls = max_concurrent_calls
        self._calls = 0

    def admit(self, context: Any) -> AdmissionControl:
        """Admits one call. Use the result in a `with` statement, or `release` it: the call counts until then.

        Args:
            context: The context of the call, for its metadata.

        Raises:
            Unauthenticated: The call carries no token, more than one, or an unknown one.
            TooManyCalls: The limit on concurrent calls is reached.
        """
        if self._tokens is not None:
            given = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
            try:
                if len(given) != 1:
                    raise Unauthenticated
                self._tokens.check(given[0])
            except Unauthenticated:
                self._on_rejected("unauthenticated")
                raise
        if self._max_concurrent_calls is not None and self._calls >= self._max_concurrent_calls:
            self._on_rejected("too_many_calls")
            raise TooManyCalls(f"{self._max_concurrent_calls} calls are running already", retry_after_s=_RETRY_AFTER_S)
        self._calls += 1
        return self

    def __enter__(self) -> None:
        """Does nothing: `admit` has counted the call."""

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Gives the place of a call back."""
        self._calls -= 1
