"""The summary that is printed at the end of a run.

The confusion table is ours: the base install has no library that formats tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from serving.score.tally import OTHERS, Tally

# Reasons that are printed: those that occur most often.
_SHOWN = 10


def summarise(tally: Tally, *, labelled: bool) -> str:
    """Returns counts and reasons and, if true labels are known, accuracy, confusion and the worst mistakes, as text.

    Args:
        tally: The totals.
        labelled: Whether true labels were asked for.
    """
    return "\n".join(_lines(tally, labelled))


def _lines(tally: Tally, labelled_run: bool) -> Iterator[str]:
    seen = "".join(f", {count:,} {words}" for words, count in sorted(tally.statuses.items()))
    yield f"{tally.images:,} images, {tally.errors:,} without an answer, {tally.unsure:,} unsure{seen}"
    yield from _reasons(tally)
    if tally.unknown:
        yield f"{tally.unknown:,} have an unknown true label"
    labelled, sure = int(tally.confusion.sum()), int(tally.confusion[:, :-1].sum())
    if labelled_run and tally.images > tally.errors and not labelled and not tally.unknown:
        yield "no image has a true label: --label-folders takes the name of the folder that an image is in"
    if not labelled:
        return
    right = int(tally.confusion.trace())
    share = f"{right / sure:.2%}" if sure else "none"
    yield f"accuracy {share}: {right:,} right of {sure:,} answers to {labelled:,} images with a known label"
    yield from _confusion(tally)
    if tally.mistakes:
        yield "worst mistakes:"
    for mistake in tally.mistakes:
        yield f"  {mistake.id}  is {mistake.expected}, called {mistake.answer}  {mistake.confidence:.2%}"


def _reasons(tally: Tally) -> Iterator[str]:
    named = Counter({reason: count for reason, count in sorted(tally.reasons.items()) if reason != OTHERS})
    shown = Counter(dict(named.most_common(_SHOWN)))
    shown[OTHERS] = sum(tally.reasons.values()) - shown.total()
    for reason, count in shown.most_common():
        if count:
            yield f"  {count:>9,}  {reason}"


def _confusion(tally: Tally) -> Iterator[str]:
    """Yields a table of the labels that occur: a row per true label, a column per answer."""
    answers = [*tally.labels, "no label" if tally.statuses else "unsure"]
    columns = [
        n
        for n in range(len(answers))
        if tally.confusion[:, n].any() or (n < len(tally.labels) and tally.confusion[n].any())
    ]
    width = max(len(f"{tally.confusion.max():,}"), *(len(answers[n]) for n in columns)) + 2
    first = max(len("true"), *(len(name) for name in tally.labels))
    yield f"{'true':<{first}}" + "".join(f"{answers[n]:>{width}}" for n in columns)
    for row, name in enumerate(tally.labels):
        if tally.confusion[row].any():
            yield f"{name:<{first}}" + "".join(f"{tally.confusion[row, n]:>{width},}" for n in columns)
