"""A finding of `digits-doctor`."""

from __future__ import annotations

from typing import NamedTuple

OK, NOTE, PROBLEM = "ok", "note", "problem"


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        subject: What was checked, such as `cuda`.
        state: `ok`; `note` if a server would run, but not at its best; `problem` if it would not start.
        text: What was found.
    """

    subject: str
    state: str
    text: str
