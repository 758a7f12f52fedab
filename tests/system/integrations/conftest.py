"""A provider on loopback, and a real limiter that also writes down what it is told."""

from collections.abc import Iterator

import pytest

from openlimit import ChatRateLimiter
from openlimit.operations import (
    Acquire,
    Grant,
    Labels,
    Observe,
    Penalize,
    Release,
    Report,
    Settle,
)
from openlimit.reservation import OnWaiting
from tests.support.loopback_provider import Provider, serving


class Witness(ChatRateLimiter):
    """A limiter with room for any test. What becomes of the calls is written down, no more."""

    def __init__(self) -> None:
        super().__init__(request_limit=10**6, token_limit=10**9, bucket_size_in_seconds=60)
        self.charged: list[tuple[str, int]] = []
        """Model and tokens of each call, in order."""
        self.settled: list[dict[str, int]] = []
        self.over = 0
        """How many slots are free again, as if concurrency were limited."""
        self.observed: list[tuple[dict[str, float], str]] = []
        self.penalties: list[tuple[float, str]] = []
        self.labels: set[Labels] = set()
        """Of all calls, and of all that was said of them."""

    def acquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        self.charged.append((call.model, call.costs["tokens"]))
        self.labels.add(call.labels)
        return super().acquire(call)._replace(lease=30)

    async def aacquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        self.charged.append((call.model, call.costs["tokens"]))
        self.labels.add(call.labels)
        return (await super().aacquire(call))._replace(lease=30)

    def tell(self, operation: Report) -> None:
        self.labels.add(operation.labels)
        match operation:
            case Settle(_, _, used):
                self.settled.append(dict(used))
                self.over += 1
            case Release():
                self.over += 1
            case Observe(model, _, remaining):
                self.observed.append((dict(remaining), model))
            case Penalize(model, _, retry_after):
                self.penalties.append((retry_after, model))


@pytest.fixture
def witness() -> Witness:
    return Witness()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The SDKs find it, and its key, in the environment."""
    with serving() as provider:
        for name, value in {
            "OPENAI_BASE_URL": f"{provider.url}/v1",
            "OPENAI_API_KEY": "unused",
            "ANTHROPIC_BASE_URL": provider.url,
            "ANTHROPIC_API_KEY": "unused",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        yield provider
