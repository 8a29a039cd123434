"""Logs on stderr, as text for people or as one JSON object a line for collectors."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is logged and how.

    Attributes:
        level: The least important messages that are logged, one of `LEVELS`.
        format: One of `FORMATS`.
    """

    level: str = "info"
    format: str = "text"


def start_logging(config: LogConfig) -> None:
    """Sends this process's logs to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    if config.format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(
            JsonFormatter(
                "{asctime}{levelname}{name}{process}{message}",
                style="{",
                rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            )
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s"))
    logging.basicConfig(level=config.level.upper(), handlers=[handler])
