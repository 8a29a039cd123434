"""Errors of training, each with a message for the user of the command line."""

from __future__ import annotations

from serving.errors import DigitsError


class DatasetError(DigitsError):
    """The data can't be read or are not what they should be. Names the file and says what to do."""


class TrainingError(DigitsError):
    """The run can't be made as asked, or stopped before its first epoch ended."""


class RecordError(DigitsError):
    """A directory without the complete record of a run. Names the file."""
