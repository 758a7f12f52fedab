"""Operations as reservations make them, for tests that ask a limiter directly."""

from collections.abc import Mapping

from openlimit.operations import Acquire


def a_call(model: str, costs: Mapping[str, int], key: str = "") -> Acquire:
    """What a limiter is asked for a call of its key."""
    return Acquire(model, key, costs, None)
