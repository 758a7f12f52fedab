"""Names of calls in a line. Those of a run differ in their last three characters only: what is kept
of calls is kept by the stem of their names, with the endings one after the other in one text."""

from collections.abc import Sequence
from itertools import groupby

ENDING = 3
"""Characters of a name that follow its stem."""


def by_stem(names: Sequence[str]) -> Sequence[tuple[str, str]]:
    """Stems, each with the endings of the names that have it and are next to each other."""
    if len({name[:-ENDING] for name in names}) == 1:
        return [(names[0][:-ENDING], _endings(names))]
    same = groupby(names, lambda name: name[:-ENDING])
    return [(stem, _endings([*each])) for stem, each in same]


def parts_of(name: str) -> tuple[str, str]:
    """The stem of a name, and its ending; that of a short name is filled up."""
    return name[:-ENDING], name[-ENDING:].ljust(ENDING)


def place_of(ending: str, endings: str) -> int:
    """Which of these an ending is; -1 for none."""
    at = endings.find(ending)
    while at >= 0 and at % ENDING:
        at = endings.find(ending, at + 1)
    return at // ENDING


def each_of(endings: str) -> Sequence[str]:
    """One by one."""
    return [endings[at : at + ENDING] for at in range(0, len(endings), ENDING)]


def _endings(names: Sequence[str]) -> str:
    endings = "".join([name[-ENDING:] for name in names])
    if len(endings) < ENDING * len(names):
        endings = "".join([name[-ENDING:].ljust(ENDING) for name in names])
    return endings
