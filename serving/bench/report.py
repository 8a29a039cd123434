"""The report: results as a table for people and as JSON for programs.

The table is our own: no library that we depend on makes one with two lines of headings and without empty columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from serving.bench.result import Result
from serving.bench.scenario import Scenario


def _number(digits: int) -> Callable[[float | None], str]:
    return lambda value: "" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _multiple(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


# Two lines of heading, and the text of a cell.
_COLUMNS: tuple[tuple[str, str, Callable[[Scenario, Result], str]], ...] = (
    ("", "scenario", lambda scenario, _: f"{scenario.target} {scenario.mode}".strip()),
    ("images/", "request", lambda scenario, _: f"{scenario.batch_rows:,}"),
    ("", "callers", lambda scenario, _: "" if scenario.layer == "engine" else f"{scenario.callers:,}"),
    ("due", "/s", lambda scenario, _: _number(0)(scenario.rate_per_s)),
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
    ("memory", "MB", lambda _, result: _number(0)(result.memory_mb)),
    ("load", "generator", lambda _, result: _share(result.generator_share)),
    ("", "errors", lambda _, result: " ".join(f"{code} {count:,}" for code, count in result.errors.items())),
    ("", "wrong", lambda _, result: f"{result.wrong:,}" if result.wrong else ""),
)


def table(results: Mapping[Scenario, Result]) -> str:
    """Returns results as aligned columns, without empty ones."""
    columns = []
    for upper, lower, cell in _COLUMNS:
        cells = [cell(scenario, result) for scenario, result in results.items()]
        if any(cells):
            width = max(map(len, [upper, lower, *cells]))
            align = str.ljust if lower == "scenario" else str.rjust
            columns.append([align(text, width) for text in (upper, lower, *cells)])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def as_json(results: Mapping[Scenario, Result], about: Mapping[str, Any]) -> str:
    """Returns results as one JSON object: what was measured, and all figures of each scenario.

    Args:
        results: The results.
        about: What was measured; precedes the scenarios.
    """
    scenarios = [{**asdict(scenario), **asdict(result)} for scenario, result in results.items()]
    return json.dumps({**about, "scenarios": scenarios}, indent=2) + "\n"
