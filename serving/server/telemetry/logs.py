"""Logs on stderr, as text for people or as one JSON object per line for collectors."""

from __future__ import annotations

import logging
import random
import sys
from contextvars import ContextVar
from dataclasses import dataclass

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


# The id that the client gave the current request; empty if it gave none.
request_id: ContextVar[str] = ContextVar("request_id", default="")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What to log and how.

    Attributes:
        level: Lowest level that is logged, one of `LEVELS`.
        format: One of `FORMATS`.
    """

    level: str = "info"
    format: str = "text"


class _RequestId(logging.Filter):
    """Adds the current request's id to log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        if known := request_id.get():
            record.request_id = known
        record.request_prefix = f" request {known}:" if known else ""
        return True


class AccessLog:
    """Logs a line for a random sample of the calls.

    Args:
        share: Share of the calls to log, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._logger = logging.getLogger("serving.access")

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        """See `serving.server.services.handlers.CallObserver`."""
        if self._share and random.random() < self._share:  # noqa: S311 - not a security decision
            self._logger.info(
                "%s %s %.6f s", method, code, seconds, extra={"method": method, "code": code, "seconds": seconds}
            )


def start_logging(config: LogConfig) -> None:
    """Configures this process to log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        from pythonjsonlogger.core import RESERVED_ATTRS
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{process}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
                reserved_attrs=[*RESERVED_ATTRS, "request_prefix"],
            )
        )
    else:
        handler.setFormatter(
            logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]:%(request_prefix)s %(message)s")
        )
    handler.addFilter(_RequestId())
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
