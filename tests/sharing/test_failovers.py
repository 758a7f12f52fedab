"""A Redis that dies while callers wait in line at two servers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openlimit.bucket.limit import SECOND
from openlimit.bucket.line import HORIZON
from tests.support.redis_process import serving_redis
from tests.support.redis_topologies import eventually, serving_sentinels
from tests.support.server_process import serving
from tests.support.sharing_member import Call, members
from tests.support.waiting_teams import (
    BURST,
    LARGEST,
    POLICY,
    RATE,
    SLOTS,
    require_limits,
    require_order,
    require_slots,
    require_use,
    teams,
)

BEFORE, AFTER = 5.0, 8.0  # seconds
HELD = 0.5  # seconds for which no call runs longer


@contextmanager
def waiting(folder: Path, store: str) -> Iterator[list[Call]]:
    """Teams whose queues never empty, at two servers on this store."""
    config = folder / "limits.yaml"
    config.write_text(POLICY)
    on = ("--config", str(config), "--store", store)
    with (
        serving(*on) as one,
        serving(*on) as other,
        members(*((each.address, teams(each.port)) for each in (one, other))) as calls,
    ):
        time.sleep(BEFORE)
        yield calls
        time.sleep(AFTER)


def test_a_replica_that_is_promoted_goes_on_with_the_line(tmp_path: Path) -> None:
    """Nobody hangs or is told of it, no window is over its limit, and order is kept in each leaf;
    what the replica did not know yet is one call at most."""
    with serving_sentinels() as watched, waiting(tmp_path, watched.url) as calls:
        watched.master.kill()
        eventually(lambda: watched.replica.client().info()["role"] == "master")
        again = time.time()
    require_limits(calls, more=LARGEST)
    require_slots(calls, SLOTS + 1)
    require_order(calls)
    require_use(calls, again + 3, again + AFTER - 0.5)


def test_a_line_that_redis_has_lost_is_rebuilt_in_order(tmp_path: Path) -> None:
    """Nobody hangs or is told of it, and order is kept in each leaf. With the line, Redis has lost
    how full the buckets were and who ran: at once, it lets start a burst more, and what it had
    handed out ahead; from then on nothing is over its limit."""
    with serving_redis() as redis, waiting(tmp_path, redis.url) as calls:
        killed = time.time()
        redis.kill()
        redis.start()
        again = time.time()
    require_limits(calls, more=BURST + RATE * HORIZON / SECOND)
    for there in (
        [call for call in calls if call.start < killed],
        [call for call in calls if call.start > again + HELD],
    ):
        require_limits(there)
        require_slots(there)
    require_order(calls)
    require_use(calls, again + 1, again + AFTER - 0.5)
