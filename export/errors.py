"""Errors of the export and the import, each with a message for the user of the command line."""

from __future__ import annotations

from serving.errors import DigitsError

_LONGEST_REASON = 300


class UnusableModel(DigitsError):
    """The model can't be exported or imported: it is unreadable, incomplete, or of an unsupported kind."""


def reason_of(error: BaseException) -> str:
    """The first line of an error of another library, shortened, for the end of a sentence of ours.

    Libraries write pages: Keras with the whole configuration of a model, TensorFlow with its own traceback. Where the
    first line only introduces the rest, such as "in user code:", the last line is taken instead, or the next one added.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines()]
    line, *others = [line for line in lines if line] or [type(error).__name__]
    if others and (line.endswith("in user code:") or line.startswith("Exception encountered")):
        line = others[-1]
    elif others and line.endswith(":"):
        line = f"{line} {others[0]}"
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
