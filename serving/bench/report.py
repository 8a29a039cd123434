"""The report: results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from serving.bench.result import Result
from serving.bench.rung import Rung


def _number(digits: int) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _multiple(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


# Two lines of heading, and how the cell is made.
_COLUMNS: tuple[tuple[str, str, Callable[[Rung, Result], str]], ...] = (
    ("", "rung", lambda rung, _: f"{rung.kind} {rung.mode}".strip()),
    ("images/", "request", lambda rung, _: f"{rung.batch_rows:,}"),
    ("", "callers", lambda rung, _: "" if rung.kind == "engine" else f"{rung.callers:,}"),
    ("due", "/s", lambda rung, _: _number(0)(rung.rate_per_s)),
    ("requests", "/s", lambda _, result: _number(0)(result.requests_per_s)),
    ("images", "/s", lambda _, result: _number(0)(result.images_per_s)),
    ("of", "engine", lambda _, result: _share(result.images_per_s_of_engine)),
    ("p50", "ms", lambda _, result: _number(2)(result.p50_ms)),
    ("p99", "ms", lambda _, result: _number(2)(result.p99_ms)),
    ("p99.9", "ms", lambda _, result: _number(2)(result.p99_9_ms)),
    ("p50 of", "echo", lambda _, result: _multiple(result.p50_of_echo)),
    ("CPU us/", "request", lambda _, result: _number(0)(result.cpu_us_per_request)),
    ("CPU us/", "image", lambda _, result: _number(1)(result.cpu_us_per_image)),
    ("of", "engine", lambda _, result: _multiple(result.cpu_per_image_of_engine)),
    ("of echo", "+ engine", lambda _, result: _multiple(result.cpu_of_echo_and_engine)),
    ("load", "maker", lambda _, result: _share(result.generator_share)),
    ("", "errors", lambda _, result: " ".join(f"{code} {count:,}" for code, count in result.errors.items())),
    ("", "wrong", lambda _, result: f"{result.wrong:,}" if result.wrong else ""),
)


def table(results: Mapping[Rung, Result]) -> str:
    """Results in lines of equal columns. Columns that are empty throughout are left out."""
    columns = []
    for upper, lower, cell in _COLUMNS:
        cells = [cell(rung, result) for rung, result in results.items()]
        if any(cells):
            width = max(map(len, [upper, lower, *cells]))
            align = str.ljust if lower == "rung" else str.rjust
            columns.append([align(text, width) for text in (upper, lower, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def as_json(results: Mapping[Rung, Result], about: Mapping[str, Any]) -> str:
    """Results as one JSON object: what was run where, and a list of rungs with everything known of each.

    Args:
        results: What was measured.
        about: Anything that JSON can hold, put before the rungs.
    """
    rungs = [{**asdict(rung), **asdict(result)} for rung, result in results.items()]
    return json.dumps({**about, "rungs": rungs}, indent=2) + "\n"
