"""How much a model's calls write as a rule, learned from those that were settled.

Pure and bounded: learning and estimating take the same short time whatever was learned before.
"""

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict
from math import inf

_PERCENT = 95
_WINDOW = 512
_ENOUGH = 59
"""Calls until there is an estimate: with a probability of 95 %, one of so many writes more than
95 % of all calls do (0.95 ** 59 < 0.05)."""
_MOST_MODELS = 1000


class LearnedOutput:
    """The 95th percentile of the output of each model's latest 512 calls, by nearest rank.

    Which is the smallest output that 95 % of them do not exceed: the inverse of their empirical
    distribution function, definition 1 in Hyndman and Fan, "Sample Quantiles in Statistical
    Packages", The American Statistician 50 (1996). What a model's calls wrote longer ago is
    forgotten, as are models beyond the 1,000 that were learned of last.
    """

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Latest] = OrderedDict()

    def learn(self, model: str, output: int) -> None:
        """What a call has really written, in tokens: not negative, below 2**63."""
        latest = self._models.get(model)
        if latest is None:
            latest = self._models[model] = _Latest()
            if len(self._models) > _MOST_MODELS:
                self._models.popitem(last=False)
        else:
            self._models.move_to_end(model)
        latest.add(output)

    def estimate(self, model: str) -> float:
        """What a call is taken to write, in tokens; ``inf`` until enough is known of its model."""
        latest = self._models.get(model)
        return latest.percentile if latest else inf


class _Latest:
    """The latest values of a sequence, and their percentile."""

    __slots__ = ("_count", "_latest", "_sorted", "percentile")

    def __init__(self) -> None:
        self._latest = array("q")  # in a circle: the oldest makes way for the next
        self._sorted = array("q")
        self._count = 0
        self.percentile = inf

    def add(self, value: int) -> None:
        if self._count < _WINDOW:
            self._latest.append(value)
        else:
            place = self._count % _WINDOW
            del self._sorted[bisect_left(self._sorted, self._latest[place])]
            self._latest[place] = value
        insort(self._sorted, value)
        self._count += 1
        if self._count >= _ENOUGH:
            rank = -(-_PERCENT * len(self._sorted) // 100)  # rounded up
            self.percentile = self._sorted[rank - 1]
