"""Logs on stderr, as text for people or as one JSON object per line for collectors."""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.server.telemetry.calls import Call

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

    def call_ended(self, call: Call, code: str, seconds: float) -> None:
        """See `serving.server.telemetry.calls.CallObserver`."""
        if not self._share or random.random() >= self._share:  # noqa: S311 - not a security decision
            return
        known = {"method": call.method, "code": code, "seconds": seconds, "peer": call.peer}
        text = f"{call.method} {code} {seconds:.6f} s from {call.peer}"
        if call.model:
            known |= {"model": call.model, "version": int(call.version)}
            text += f", {call.model} version {call.version}"
        if call.images:
            known["images"] = call.images
            text += f", images: {call.images}"
        self._logger.info("%s", text, extra=known)

    def request_ended(self, request: Call, code: str, seconds: float) -> None:
        """Ignored: a stream is logged as one call."""

    def calls_ended(self, method: str, model: str, version: str, code: str, seconds: Sequence[float]) -> None:
        """Ignored: with an access log, every call has a `Call`."""


def start_logging(config: LogConfig) -> None:
    """Configures this process to log to stderr. Call it before anything imports gRPC.

    Python's own reports go to the log too: warnings, and exceptions that nothing catches. gRPC's C library prints lines
    past every logger, such as one for each client that fails a TLS handshake. They are off unless `GRPC_VERBOSITY` asks
    for them.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        from pythonjsonlogger.core import RESERVED_ATTRS
        from pythonjsonlogger.json import JsonFormatter

        formatter: logging.Formatter = JsonFormatter(
            "{asctime}{levelname}{name}{process}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            reserved_attrs=[*RESERVED_ATTRS, "request_prefix"],
        )
    else:
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]:%(request_prefix)s %(message)s")
    formatter.formatTime = _format_time  # type: ignore[method-assign]
    handler.setFormatter(formatter)
    handler.addFilter(_RequestId())
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
    logging.captureWarnings(capture=True)
    sys.excepthook = lambda kind, error, traceback: _report("the process ends", error)
    threading.excepthook = lambda args: _report("a thread ends", args.exc_value)
    sys.unraisablehook = lambda args: _report(args.err_msg or "an exception is ignored", args.exc_value)


def _format_time(record: logging.LogRecord, datefmt: str | None = None) -> str:
    """Formats a record's time as RFC 3339 has it: local time with milliseconds and its offset from UTC."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")


def _report(what: str, error: BaseException | None) -> None:
    logging.getLogger("serving").critical("%s because of an unexpected error", what, exc_info=error)
