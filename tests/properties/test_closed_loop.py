"""The arithmetic in a loop with a provider, in no time: what is told of calls steers the next."""

from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from math import inf
from random import Random

import pytest

from examples.demo.quota import Limits, Quota
from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import SECOND, Limit
from tests.support.clock import FakeClock

RATE = 10_000  # tokens a second
CALLERS = 40
LEARNING, MEASURED = 8, 30  # seconds


class Loop:
    """Callers that wait for their start, call a strict provider, and tell what they learn.

    A call is charged ``reserved`` tokens when it starts; it says that it has used ``used`` of them,
    and the provider gives the rest back if it is one that ``adjusts``.
    """

    def __init__(self, reserved: int, used: int, *, adjusts: bool, others: float) -> None:
        self.clock = FakeClock()
        self.clock.now = 0  # so that seconds are those of the loop
        self.quota = Quota(Limits(6_000, 60 * RATE, 2), lambda: self.clock.now / SECOND)
        self.bucket = Bucket([Limit.per("tokens", 60 * RATE, 60)])
        self.reserved, self.used, self.adjusts, self.others = reserved, used, adjusts, others
        self.random = Random(5)
        self.events: list[tuple[float, int, str]] = []
        self.names = 0
        self.accepted = self.refused = 0
        for _ in range(CALLERS):
            self.after(self.random.random(), "ask")
        if others:
            self.after(1, "other")

    def after(self, seconds: float, event: str) -> None:
        self.names += 1
        heappush(self.events, (self.clock.now + seconds * SECOND, self.names, event))

    def run(self, until: float) -> None:
        while self.events[0][0] < until * SECOND:
            now, _, event = heappop(self.events)
            self.clock.now = round(now)
            getattr(self, event)()

    def ask(self) -> None:
        self.names += 1
        decision = self.bucket.acquire([self.reserved], self.clock.now, inf, str(self.names))
        assert isinstance(decision, tuple)
        self.after(decision[0] / SECOND + 0.001, "call")

    def call(self) -> None:
        if refusal := self.quota.charge(self.reserved):
            self.refused += 1
            self.tell()
            assert refusal.retry_after
            self.bucket.penalize(self.clock.now + refusal.retry_after * SECOND, self.clock.now)
            self.ask()
        else:
            self.accepted += 1
            self.after(self.random.uniform(0.02, 0.08), "end")

    def end(self) -> None:
        if self.adjusts:
            self.quota.give_back(self.reserved - self.used)
        self.bucket.settle([[self.reserved]], [[self.used]], self.clock.now)
        self.tell()
        self.ask()

    def tell(self) -> None:
        left = float(self.quota.headers()["x-ratelimit-remaining-tokens"])
        self.bucket.observe([left], self.clock.now)

    def other(self) -> None:
        self.quota.charge(self.reserved)
        self.after(self.reserved / (self.others * RATE), "other")


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(partial(Loop, 300, 300, adjusts=True, others=0), id="alone"),
        pytest.param(partial(Loop, 1200, 300, adjusts=True, others=0), id="settles"),
        pytest.param(partial(Loop, 300, 300, adjusts=True, others=0.3), id="others"),
        pytest.param(partial(Loop, 300, 75, adjusts=False, others=0), id="keeps the charge"),
        pytest.param(partial(Loop, 300, 75, adjusts=False, others=0.3), id="both"),
    ],
)
def test_no_more_is_asked_than_is_there_and_no_less(start: Callable[[], Loop]) -> None:
    """After some seconds next to no call is refused, and next to nothing is left unused: alone or
    beside others, whether the provider takes off what calls have not used or not."""
    loop = start()
    loop.run(LEARNING)
    accepted, refused = loop.accepted, loop.refused
    loop.run(LEARNING + MEASURED)
    accepted, refused = loop.accepted - accepted, loop.refused - refused
    charged = loop.used if loop.adjusts else loop.reserved
    assert refused < 0.01 * accepted
    assert accepted * charged / (MEASURED * RATE) + loop.others > 0.95
