"""What is logged and answered where the server itself is at fault."""

import logging
import time
from collections.abc import Callable
from math import inf

from openlimit.errors import LimiterUnavailable

_EVERY = 10.0  # seconds from one traceback to the next of the same fault

_log = logging.getLogger("openlimit")


class InternalErrors:
    """Logs what goes wrong: one traceback for all that the same line of code spoils meanwhile.

    ``clock`` returns seconds and must not run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.count = 0
        """How often something went wrong."""
        self._seen: dict[object, tuple[float, int]] = {}

    def could_not_decide(self, error: Exception) -> LimiterUnavailable:
        """What to answer instead; it tells the client nothing of the inside."""
        self.count += 1
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        fault = type(error), place and (place.tb_frame.f_code, place.tb_lineno)
        now = self._clock()
        logged, silent = self._seen.get(fault, (-inf, 0))
        if now < logged + _EVERY:
            self._seen[fault] = logged, silent + 1
        else:
            self._seen[fault] = now, 0
            repeated = f"; it failed so {silent} times more before this" if silent else ""
            _log.error("could not decide%s", repeated, exc_info=error)
        return LimiterUnavailable("", "the server could not decide")


internal_errors = InternalErrors()
"""Those of this process."""
could_not_decide = internal_errors.could_not_decide
