"""A clock that moves only when a test advances it."""


class FakeClock:
    """Microseconds, from an arbitrary start."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += round(seconds * 1_000_000)
