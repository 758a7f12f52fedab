"""Decides on the hits of several descriptors at once: all are charged, or none is.

Each descriptor has a bucket of its own, which may be on another node of a Redis Cluster, so that no
script sees them all. One step of the store charges each of them, and where one refuses, a second
gives the others' back before anything is answered. In memory nothing comes between the two, unless
one is of a shared policy. Else, another request may be refused meanwhile that would have fit; none
ever passes that does not.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from math import floor, inf
from typing import NamedTuple, cast

from openlimit.bucket.limit import SECOND, Costs, Limit
from openlimit.errors import LimiterUnavailable, OpenLimitError, WaitTooLong
from openlimit.stores import protocol as stores
from openlimit.stores.lines import Granted
from openlimit.stores.protocol import Acquire, AsyncStore, Grants, Levels, Operation, Peek, Settle
from openlimit_server.engine.domains import Rule
from openlimit_server.engine.hits_in_line import HitsInLine, Trees

_SLACK = 1e-3  # microseconds: as of a bucket, which starts a call for so little now

Answer = stores.Answer | Granted | OpenLimitError
"""Of a bucket, or of a line."""


class Asked(NamedTuple):
    """Hits of one descriptor."""

    rule: Rule
    hits: int
    """Below 0 to give them back; 0 to ask without charging."""
    is_own: bool
    """Whether the descriptor brought the number itself."""

    @property
    def is_settled(self) -> bool:
        """Whether they are of what has happened already, which is not refused any more."""
        return self.hits < 0 or (self.hits > 0 and self.is_own and self.rule.is_settled)

    @property
    def is_charged(self) -> bool:
        """Whether they are charged if they fit."""
        return self.hits > 0 and not self.is_settled and bool(self.rule.limits)

    @property
    def costs(self) -> Costs:
        """By limit."""
        return [self.hits if counted else 0 for counted in self.rule.counted]

    def change(self, by: Costs) -> Settle:
        """Changes the levels by so much, whatever they are."""
        rule = self.rule
        return Settle(rule.bucket, rule.limits, "", (0,), None, ((0,) * len(by),), (by,))

    def charge(self) -> list[Operation]:
        """What the store is to do; at last, to tell what remains."""
        if not self.rule.limits:
            return []
        rule = self.rule
        done: list[Operation] = [Peek(rule.bucket, rule.limits)]
        if self.is_settled:
            done.insert(0, self.change(self.costs))
        elif self.hits:
            done.insert(0, Acquire(rule.bucket, rule.limits, (self.costs,), 0.0, "", 0))
        return done

    def give_back(self) -> list[Operation]:
        """What the store is to do where another descriptor refused."""
        back = self.change([-cost for cost in self.costs])
        return [back, Peek(self.rule.bucket, self.rule.limits)]

    async def charge_in(self, line: HitsInLine) -> list[Answer]:
        """``charge``, where the policy is shared."""
        if not self.hits:
            return [await line.peek()]
        done: list[Answer] = []
        if self.is_settled:
            # More holds up nothing longer; and what holds up others is counted in turns, too.
            pairs = zip(self.rule.limits, self.rule.counted, strict=True)
            most = min(limit.most for limit, counted in pairs if counted)
            by = [min(cost, most) for cost in self.costs]
            done.append(await line.correct(self.rule.rows(by)) or {})
        else:
            done.append(await line.start(self.rule.rows(self.costs)))
        return [*done, await line.levels()]


class Standing(NamedTuple):
    """How it stands with one descriptor."""

    is_over: bool
    remaining: int
    """Hits that would pass now."""
    reset: float = 0.0
    """Seconds: until such hits would pass if it is over the limit; else, until nothing of the limit
    is used any more."""
    limit: Limit | None = None
    """The one of which the least remains."""


async def decide(store: AsyncStore, trees: Trees, asked: Sequence[Asked]) -> list[Standing]:
    """Charge all, unless one refuses that is enforced: then none. What is settled is charged, or
    given back, in any case.

    Raises LimiterUnavailable if the store does not decide, unless all that it leaves open may pass
    without it; then nothing stays charged that it can give back. Cancelled, it still ends what it
    has begun.
    """
    deciding = _Deciding(store, trees, asked)
    # What is charged may have to be given back once another has refused, as one that only asks may.
    may_give_back = len(asked) > 1 and any(each.is_charged for each in asked)
    if may_give_back or deciding.in_line:
        return await asyncio.shield(deciding.decide())
    return await deciding.decide()


class _Deciding:
    """One request."""

    def __init__(self, store: AsyncStore, trees: Trees, asked: Sequence[Asked]) -> None:
        if any(map(_refuses_all, asked)):  # the others are not charged to begin with
            asked = [each._replace(hits=0) if each.is_charged else each for each in asked]
        self._store = store
        self._asked = asked
        self.in_line = {
            i: HitsInLine(trees, each.rule.bucket, each.rule.path)
            for i, each in enumerate(asked)
            if each.rule.path
        }

    async def decide(self) -> list[Standing]:
        """As ``decide``."""
        asked = self._asked
        answers = await self._ask([self._charge(i) for i in range(len(asked))])
        standings = [_standing(*each) for each in zip(asked, answers, strict=True)]
        failure = next(
            (
                one
                for each, several in zip(asked, answers, strict=True)
                for one in several
                if _failed(one) and not each.rule.allows_without_store
            ),
            None,
        )
        if failure or any(map(_refuses, asked, standings)):
            charged = [
                i for i, each in enumerate(asked) if each.is_charged and _granted(answers[i][0])
            ]
            after = await self._ask([self._give_back(i) for i in charged])
            for i, levels in zip(charged, after, strict=True):
                standings[i] = _remaining(asked[i], levels[-1])
        if failure:
            raise cast(LimiterUnavailable, failure)
        return standings

    def _charge(self, i: int) -> "_Step":
        line = self.in_line.get(i)
        return self._asked[i].charge_in(line) if line else self._asked[i].charge()

    def _give_back(self, i: int) -> "_Step":
        line = self.in_line.get(i)
        return line.give_back() if line else self._asked[i].give_back()

    async def _ask(self, steps: Sequence["_Step"]) -> list[Sequence[Answer]]:
        """The answers to all: the store is asked in one step, and all lines meanwhile."""
        flat = [one for step in steps if isinstance(step, list) for one in step]
        lines = [step for step in steps if not isinstance(step, list)]
        in_line = asyncio.gather(*lines) if lines else None
        answers = iter(await self._store.adecide(flat) if flat else ())
        others = iter(await in_line if in_line else ())
        return [
            [next(answers) for _ in step] if isinstance(step, list) else next(others)
            for step in steps
        ]


_Step = list[Operation] | Awaitable[Sequence[Answer]]
"""What a store is to do for a descriptor, or what a line does."""


def _refuses(asked: Asked, standing: Standing) -> bool:
    return standing.is_over and asked.rule.is_enforced and not asked.is_settled


def _granted(answer: Answer) -> bool:
    return isinstance(answer, Granted) or (isinstance(answer, Grants) and not answer.others)


def _refuses_all(asked: Asked) -> bool:
    rule = asked.rule
    return not (rule.limits or rule.is_unlimited) and rule.is_enforced and asked.hits >= 0


def _failed(answer: Answer) -> bool:
    return isinstance(answer, LimiterUnavailable)


def _standing(asked: Asked, answers: Sequence[Answer]) -> Standing:
    rule = asked.rule
    if not rule.limits:
        return Standing(not rule.is_unlimited and asked.hits >= 0, 0)
    standing = _remaining(asked, answers[-1])
    if not asked.is_charged or _failed(answers[0]) or _granted(answers[0]):
        return standing
    refusal = answers[0].others[0] if isinstance(answers[0], Grants) else answers[0]
    reset = refusal.retry_after if isinstance(refusal, WaitTooLong) else standing.reset
    return standing._replace(is_over=True, reset=reset)


def _remaining(asked: Asked, answer: Answer) -> Standing:
    """What is left. A peek is over the limit where one more hit would not pass, and hits that were
    settled are where more is used than the limit allows; others were charged, so they are not."""
    if not isinstance(answer, Levels):
        return Standing(False, 0)
    wait, levels = answer
    least, over, reset, tightest = inf, wait, 0.0, None
    for limit, level, counted in zip(asked.rule.limits, levels, asked.rule.counted, strict=True):
        if not counted:
            continue
        left = limit.capacity - level + limit.rate * _SLACK
        excess = level - limit.capacity + (0 if asked.hits else min(1.0, limit.capacity))
        over = max(over, wait + excess / limit.rate if excess > limit.rate * _SLACK else 0.0)
        reset = max(reset, wait + level / limit.rate)
        if left < least:
            least, tightest = left, limit
    is_over = over > 0 and (asked.hits == 0 or (asked.hits > 0 and asked.is_settled))
    remaining = 0 if wait else max(0, floor(least))
    return Standing(is_over, remaining, (over if is_over else reset) / SECOND, tightest)
