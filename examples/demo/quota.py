"""The provider's strict limits: token buckets that begin full and refill continuously.

A token bucket is the mirror image of a leaky bucket. The provider uses this other form and shares
no code with the limiter. So the demo is a real test.
"""

import time
from collections.abc import Callable
from math import ceil
from typing import Literal, NamedTuple

Clock = Callable[[], float]
"""Returns seconds, and never runs backwards."""


class Limits(NamedTuple):
    """Requests and tokens per minute, and the burst in seconds."""

    requests: int
    tokens: int
    burst: float


class Refusal(NamedTuple):
    """Why a call was refused."""

    kind: Literal["requests", "tokens"]
    requested: float
    remaining: float
    retry_after: float | None
    """Seconds until it would be accepted if nobody else calls; None: it never will be."""


class Bucket:
    """Refills ``amount`` per minute, and holds at most ``burst`` seconds of it."""

    def __init__(self, amount: float, burst: float, now: float) -> None:
        self.amount = amount
        self.rate = amount / 60
        self.capacity = self.rate * burst
        self._content = self.capacity
        self._at = now

    def remaining(self, now: float) -> float:
        """The content now."""
        return min(self.capacity, self._content + self.rate * (now - self._at))

    def take(self, quantity: float, now: float) -> None:
        """Remove this quantity; a negative one is put back."""
        self._content = self.remaining(now) - quantity
        self._at = now

    def seconds_until(self, quantity: float, now: float) -> float:
        """Seconds until it contains this quantity; 0 if it already does."""
        return max(0.0, quantity - self.remaining(now)) / self.rate


class Quota:
    """One bucket for requests and one for tokens; both are charged, or none."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        now = clock()
        self.requests = Bucket(limits.requests, limits.burst, now)
        self.tokens = Bucket(limits.tokens, limits.burst, now)

    def charge(self, tokens: int) -> Refusal | None:
        """Charge one request with this many tokens; None if it was accepted."""
        now = self._clock()
        if not (refusal := self._refusal(tokens, now)):
            self.requests.take(1, now)
            self.tokens.take(tokens, now)
        return refusal

    def give_back(self, tokens: int) -> None:
        """Put back the unused part of a call's charge."""
        self.tokens.take(-tokens, self._clock())

    def headers(self) -> dict[str, str]:
        """The state after a call, in OpenAI's headers."""
        now = self._clock()
        headers: dict[str, str] = {}
        for kind, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            headers |= {
                f"x-ratelimit-limit-{kind}": f"{bucket.amount:.0f}",
                f"x-ratelimit-remaining-{kind}": str(int(bucket.remaining(now))),
                f"x-ratelimit-reset-{kind}": duration(bucket.seconds_until(bucket.capacity, now)),
            }
        return headers

    def _refusal(self, tokens: int, now: float) -> Refusal | None:
        costs: list[tuple[Literal["requests", "tokens"], Bucket, int]] = [
            ("requests", self.requests, 1),
            ("tokens", self.tokens, tokens),
        ]
        for kind, bucket, cost in costs:
            remaining = bucket.remaining(now)
            if cost > bucket.capacity:
                return Refusal(kind, cost, remaining, None)
            if cost > remaining:
                return Refusal(kind, cost, remaining, bucket.seconds_until(cost, now))
        return None


def duration(seconds: float) -> str:
    """In the format of OpenAI's headers: ``17ms``, ``1.5s``, ``6m0s``; rounded up to 1 ms."""
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
