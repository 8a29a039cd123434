"""The id of the request that is being answered, as its client gave it; empty where it gave none."""

from __future__ import annotations

from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="")
