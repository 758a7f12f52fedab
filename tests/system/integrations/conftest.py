"""A provider on loopback, and a real limiter that also writes down what it is told."""

from collections.abc import Iterator, Mapping

import pytest

from openlimit import ChatRateLimiter
from openlimit.operations import Grant
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

    def reserve(self, model: str, costs: Mapping[str, int], max_wait: float | None = None) -> Grant:
        self.charged.append((model, costs["tokens"]))
        return super().reserve(model, costs, max_wait)._replace(lease=30)

    async def areserve(
        self, model: str, costs: Mapping[str, int], max_wait: float | None = None
    ) -> Grant:
        self.charged.append((model, costs["tokens"]))
        return (await super().areserve(model, costs, max_wait))._replace(lease=30)

    def settle(self, decision: Grant, reserved: Mapping[str, int], used: Mapping[str, int]) -> None:
        self.settled.append(dict(used))
        self.over += 1

    def release(self, decision: Grant) -> None:
        self.over += 1

    def _observe(self, model: str, remaining: Mapping[str, float]) -> None:
        self.observed.append((dict(remaining), model))

    def _penalize(self, model: str, retry_after: float) -> None:
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
