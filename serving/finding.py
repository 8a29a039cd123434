"""A finding: one thing that `digits-doctor` looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about, such as `cuda`.
        state: `ok`; `note` where a server runs, but not as it might; `problem` where it would not start.
        text: What was found.
    """

    subject: str
    state: str
    text: str
