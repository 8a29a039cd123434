"""Logs on stderr, as text for people or as one JSON object a line for collectors."""

from __future__ import annotations

import logging
import random
import sys
from contextvars import ContextVar
from dataclasses import dataclass

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


# The id of the request that is being answered, as its client gave it; empty where it gave none.
request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is logged and how.

    Attributes:
        level: The least important messages that are logged, one of `LEVELS`.
        format: One of `FORMATS`.
    """

    level: str = "info"
    format: str = "text"


class _RequestId(logging.Filter):
    """Adds the request's id to what is logged while it is answered."""

    def filter(self, record: logging.LogRecord) -> bool:
        known = request_id.get()
        if known:
            record.request_id = known
        record.of_request = f" request {known}:" if known else ""
        return True


class AccessLog:
    """Logs a line for some of the calls, as an observer of them.

    Args:
        share: Of the calls, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._logger = logging.getLogger("serving.access")

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """See `serving.server.services.handlers.CallObserver`."""
        if self._share and random.random() < self._share:  # noqa: S311 - which calls are logged is no secret
            self._logger.info(
                "%s %s %.6f s", method, code, seconds, extra={"method": method, "code": code, "seconds": seconds}
            )


def start_logging(config: LogConfig) -> None:
    """Sends this process's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        from pythonjsonlogger.core import RESERVED_ATTRS
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{process}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                reserved_attrs=[*RESERVED_ATTRS, "of_request"],
            )
        )
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]:%(of_request)s %(message)s")
        )
    handler.addFilter(_RequestId())
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
