"""How a connection ends: what nobody waits for arrives first."""

import logging
import time

from openlimit.remote.connection import LOOK_EVERY, Connection
from openlimit.remote.forks import forkable, opening
from openlimit.remote.waiting import numbers

_BRIEFLY = 0.1  # seconds
_RECONNECTED = 1.5  # seconds after which gRPC has found a server that is back

_log = logging.getLogger(__name__)


def flush(connection: Connection, within: float) -> None:
    """Let reports arrive, and what was given up be given back, for so many seconds at most;
    briefly where callers wait in vain already."""
    outage, reports = connection.outage, connection.reports
    if outage.is_hopeless:
        within = min(within, _RECONNECTED)
    until = time.monotonic() + within
    connection.loops.clear()
    rounds = 2  # what was given up is answered, and then given back
    connection.send_again()
    while rounds and (left := until - time.monotonic()) > 0:
        is_heard = _wait_for_reports(connection, min(left, LOOK_EVERY))
        if (is_heard or outage.is_hopeless) and not reports.owing:
            rounds -= 1
            continue
        rounds = 2
        time.sleep(min(left, _BRIEFLY))
        connection.look()
        connection.send_again()
    if rounds:
        outage.is_hopeless = True


def close(connection: Connection, within: float) -> None:
    """``flush``, let what is under way be answered, within so many seconds, and hang up."""
    until = time.monotonic() + within
    flush(connection, within)
    with opening:
        connection.is_closed = True
    if stream := connection.stream:
        is_busy = stream.in_flight > 0 and not connection.outage.is_hopeless
        stream.close(max(_BRIEFLY, until - time.monotonic()) if is_busy else _BRIEFLY)
        stream.join(_BRIEFLY)
    connection.rewind(stream, for_good=True)
    connection.leases.clear()
    if owed := connection.reports.owing:
        _log.warning("%d settlements and other reports did not reach %s", owed, connection.address)
    with opening:
        connection.channel.close()
        forkable.discard(connection)


def _wait_for_reports(connection: Connection, within: float) -> bool:
    """Until all that was reported or given up so far is answered, or the stream has ended.

    Whether it is answered.
    """
    mark = next(numbers)

    def is_heard() -> bool:
        is_open = connection.in_flight.has_given_up(mark)
        return not (is_open or connection.reports.are_open(mark))

    with connection.changed:
        endings = connection.endings
        connection.changed.wait_for(lambda: endings < connection.endings or is_heard(), within)
        return endings == connection.endings and is_heard()
