"""What a connection knows of an outage of its server."""

import time
from collections.abc import Callable
from typing import Any

from openlimit.errors import LimiterUnavailable
from openlimit.remote.address import proxy_of


class Outage:
    """``timeout`` is for how many seconds callers wait one out."""

    def __init__(self, address: str, timeout: float) -> None:
        self._address = address
        self._timeout = timeout
        self._proxy = proxy_of(address)
        self.trouble: Callable[[], Exception] | None = None
        """Makes the error that was met last; None once something was answered."""
        self._since = 0.0
        self.is_hopeless = False
        """Whether callers have run out of time, and nothing was answered since."""

    def met(self, trouble: Callable[[], Any]) -> None:
        """It begins or goes on, with what makes this error."""
        if self.trouble is None:
            self._since = time.monotonic()
        self.trouble = trouble

    def is_over(self) -> None:
        """The server has answered."""
        self.trouble = None
        self.is_hopeless = False

    def is_long(self) -> bool:
        """Whether it has lasted, or had lasted at its end, for longer than callers wait."""
        return time.monotonic() > self._since + self._timeout

    def no_answer(self) -> Exception:
        """The error of callers that have run out of time."""
        self.is_hopeless = True
        return self.error()

    def error(self) -> Exception:
        """What went wrong last."""
        if trouble := self.trouble:
            return trouble()
        return self.unavailable(f"no answer within {self._timeout:g} s")

    def unavailable(self, reason: str) -> LimiterUnavailable:
        """The server cannot be asked, for a reason that names the proxy where there is one."""
        if self._proxy:
            reason += f" (through the proxy {self._proxy}; to go around it, add to no_proxy)"
        return LimiterUnavailable(self._address, reason)
