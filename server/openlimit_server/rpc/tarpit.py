"""Slows down callers whose calls are refused again and again for what they ask.

A caller that tries many keys or reservations, or repeats an invalid call, waits for each refusal.
So the event loop has time for the others, however fast such a caller asks. Mail servers call this a
tarpit.
"""

from collections.abc import Callable

_A_SECOND, _AT_ONCE = 200, 1000
"""Refusals of one address that are answered without delay: enough for a fleet whose keys were just
revoked, or whose server has just forgotten its reservations."""
_LONGEST = 5.0  # seconds
_SPARE = 1000  # addresses that are remembered, before anybody looks for those to forget


class Tarpit:
    """A leaky bucket of refusals for each address.

    ``clock`` returns seconds and must not run backwards.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._empty_at: dict[str, float] = {}
        self._look_at = _SPARE

    def delay(self, address: str, left: float) -> float:
        """Seconds that one more refusal has to wait, whose caller waits for ``left`` more, inf for
        ever: at most half of these, so that it still hears why."""
        now = self._clock()
        free = _AT_ONCE / _A_SECOND
        if len(self._empty_at) >= self._look_at:
            known = self._empty_at.items()
            self._empty_at = {each: empty_at for each, empty_at in known if empty_at > now}
            self._look_at = 2 * len(self._empty_at) + _SPARE
        empty_at = max(self._empty_at.get(address, now), now) + 1 / _A_SECOND
        self._empty_at[address] = empty_at = min(empty_at, now + free + _LONGEST)
        return max(0.0, min(empty_at - now - free, _LONGEST, left / 2))
