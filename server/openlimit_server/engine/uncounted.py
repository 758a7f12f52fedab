"""Units that calls cost and no limit of their policy counts: no error, but worth a warning."""

import logging
from collections.abc import Iterable

from openlimit_server.config.spelling import UNITS

_MOST_LOGGED = 16  # callers may make up any number of units

_log = logging.getLogger("openlimit")


class Uncounted:
    """Logs each such unit of a policy once, and 16 of them at most.

    Every call may cost requests and tokens, so these are not logged.
    """

    def __init__(self, policy: str, units: Iterable[str]) -> None:
        self._policy = policy
        self._units = ", ".join(dict.fromkeys(units))
        self._known = {*UNITS, *units}
        self._left = _MOST_LOGGED

    def notice(self, units: Iterable[str]) -> None:
        """Look at the units that calls cost. Does not block."""
        if self._left and not self._known.issuperset(units):
            for unit in [*{*units} - self._known][: self._left]:
                self._known.add(unit)
                self._left -= 1
                _log.warning(
                    "policy %s: calls cost %s, which it does not count, since its limits are of "
                    "%s; add a limit, or mend the callers%s",
                    *(self._policy, unit, self._units),
                    "" if self._left else "; further units are not logged",
                )
