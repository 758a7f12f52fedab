"""How long refusals wait whose callers could have known."""

from math import inf

import pytest

from openlimit_server.rpc.tarpit import Tarpit

EVIL, GOOD = "ipv4:127.0.0.1", "ipv4:127.0.0.2"


class Seconds:
    """A clock."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def tarpit(clock: Seconds) -> Tarpit:
    return Tarpit(clock)


def test_a_thousand_are_answered_at_once_and_then_two_hundred_a_second(tarpit: Tarpit) -> None:
    """Each waits that much longer than the one before, and another address does not wait."""
    assert [tarpit.delay(EVIL, inf) for _ in range(1000)] == [0.0] * 1000
    assert [tarpit.delay(EVIL, inf) for _ in range(3)] == pytest.approx([0.005, 0.01, 0.015])
    assert tarpit.delay(GOOD, inf) == 0


def test_none_waits_for_more_than_five_seconds(tarpit: Tarpit, clock: Seconds) -> None:
    """However many there were; and ten seconds later they are forgotten."""
    assert max(tarpit.delay(EVIL, inf) for _ in range(100_000)) == pytest.approx(5)
    clock.now += 10
    assert [tarpit.delay(EVIL, inf) for _ in range(1000)] == pytest.approx([0.0] * 1000)


def test_a_caller_hears_why_before_its_time_is_up(tarpit: Tarpit) -> None:
    """A refusal takes at most half of what is left."""
    assert max(tarpit.delay(EVIL, 0.5) for _ in range(3000)) == 0.25
    assert tarpit.delay(EVIL, -0.1) == 0


def test_addresses_without_refusals_are_forgotten(tarpit: Tarpit, clock: Seconds) -> None:
    """However many there are, one after the other."""
    for number in range(100_000):
        clock.now += 0.001
        tarpit.delay(f"ipv4:{number}", inf)
    assert len(tarpit._empty_at) <= 2000
