"""A provider on loopback, and a real limiter that also writes down what it is told."""

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

import pytest

from openlimit import ChatRateLimiter, Reservation
from openlimit.leaky_bucket import Decision
from openlimit.usage import units_of
from tests.loopback_provider import Provider, serving


class Witness(ChatRateLimiter):
    """A limiter with more room than any test needs."""

    def __init__(self) -> None:
        super().__init__(request_limit=10**6, token_limit=10**9, bucket_size_in_seconds=60)
        self.charged: list[tuple[str, int]] = []
        """Model and tokens of each call, in order."""
        self.observed: list[tuple[dict[str, float], str]] = []
        self.penalties: list[tuple[float, str]] = []
        self.settled: list[dict[str, int]] = []
        self.released = 0
        """How many reservations are over."""

    def reserve(self, model: str, costs: Mapping[str, int]) -> Decision:
        self.charged.append((model, costs["tokens"]))
        return super().reserve(model, costs)

    def areserve(self, model: str, costs: Mapping[str, int]) -> Coroutine[Any, Any, Decision]:
        self.charged.append((model, costs["tokens"]))
        return super().areserve(model, costs)

    def observe(self, remaining: Mapping[str, float], model: str = "") -> None:
        self.observed.append((dict(remaining), model))
        super().observe(remaining, model)

    def penalize(self, retry_after: float, model: str = "") -> None:
        self.penalties.append((retry_after, model))
        super().penalize(retry_after, model)


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """What the reservations are told is written down as well; each is to be released once over."""
    witness = Witness()
    over: set[int] = set()

    def settle(reservation: Reservation, usage: object) -> None:
        real_settle(reservation, usage)
        if usage is not None:
            witness.settled.append(units_of(usage))

    def release(reservation: Reservation) -> None:
        real_release(reservation)
        over.add(id(reservation))
        kept.append(reservation)  # so that no other gets its id
        witness.released = len(over)

    kept: list[Reservation] = []
    real_settle: Callable[[Reservation, object], None] = Reservation.settle
    real_release: Callable[[Reservation], None] = Reservation.release
    monkeypatch.setattr(Reservation, "settle", settle)
    monkeypatch.setattr(Reservation, "release", release)
    return witness


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
