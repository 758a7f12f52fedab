"""Callers that attack the line: what others get meanwhile, and what it costs the server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from itertools import count
from math import inf
from pathlib import Path
from random import Random

import grpc
import pytest

from openlimit import RemoteLimiter, WaitTooLong
from openlimit.bucket.calls import MOST_BELOW_CHILD
from openlimit.errors import LineFull
from openlimit.operations import Acquire, Release
from openlimit.v1.rate_limit_pb2 import AcquireRequest, SettleRequest
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from tests.sharing.conftest import Servers
from tests.support.server_process import ServerProcess
from tests.support.sharing_member import Call, Group, members

RATE = 400  # calls a second
POLICY = f"""
policies:
  - name: shared
    models: ["m"]
    limits: {{requests: {60 * RATE}/minute burst 0.1s}}
    levels:
      - label: team
      - label: user
  - name: slow
    models: ["slow"]
    limits: {{requests: 600/minute}}
    levels: [{{label: team}}, {{label: user}}]
  - name: slots
    models: ["slots"]
    limits: {{requests: 600000/minute}}
    concurrent: 4
    lease: 1s
    levels: [{{label: team}}]
"""
FRESH = 12_000  # labels: more than a server keeps in mind of those that it met
BOUND = 64 << 20
"""Bytes by which a server grows at most, whatever labels callers make up."""
BOUND_OF_WAITING = 192 << 20
"""The same with 10,000 calls that wait."""


def a_call(
    team: str, user: str = "u", model: str = "m", max_wait: float | None = None, ticket: str = ""
) -> Acquire:
    """A call of a team's user."""
    labels = (("team", team), ("user", user))
    return Acquire(model, "", {"requests": 1}, max_wait, ticket, labels)


def memory(servers: list[ServerProcess]) -> int:
    """What the largest of them has in memory, in bytes."""
    each = (Path(f"/proc/{server.pid}/statm").read_text().split()[1] for server in servers)
    return 4096 * max(map(int, each))


@contextmanager
def honest(server: ServerProcess) -> Iterator[list[Call]]:
    """A team whose queue never empties, in a process of its own."""
    with members((server.address, [Group({"team": "honest", "user": "u"}, 200, (1, 1))])) as calls:
        yield calls


def share(calls: list[Call]) -> float:
    """Which part of the limit's rate they got, once what may start at once had started."""
    starts = sorted(call.start for call in calls if call.start < inf)
    begin, end = starts[0] + 0.5, starts[-1] - 0.2
    return sum(begin <= start < end for start in starts) / (end - begin) / RATE


async def attack(one: Callable[[], Awaitable[object]], attackers: int, seconds: float) -> None:
    """So many do this again and again for some seconds."""

    async def again() -> None:
        while True:
            with suppress(WaitTooLong, LineFull, TimeoutError):
                await one()
            await asyncio.sleep(0)

    with suppress(TimeoutError):
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for _ in range(attackers):
                group.create_task(again())


async def test_fresh_labels_leave_others_their_share_and_next_to_nothing_behind(
    servers: Servers,
) -> None:
    """A server that has met 12,000 users of a team has grown by less than 64 MB."""
    running = servers(POLICY)
    names = count()
    with RemoteLimiter(running[-1].address) as evil, honest(running[0]) as calls:
        before = memory(running)

        async def fresh() -> None:
            if (number := next(names)) == FRESH:
                raise EOFError
            await evil.aacquire(a_call("evil", f"user-{number}", max_wait=0.02))

        with pytest.raises(ExceptionGroup) as ended:
            await attack(fresh, 500, 30)
        assert ended.group_contains(EOFError)
        grown = memory(running) - before
    assert share(calls) > 0.48
    assert grown < BOUND


async def test_cancelling_and_asking_again_gains_nothing(servers: Servers) -> None:
    """Others get their share while a team does so without end."""
    running, random = servers(POLICY), Random(1)
    with RemoteLimiter(running[-1].address) as evil, honest(running[0]) as calls:

        async def cancelled() -> None:
            async with asyncio.timeout(random.random() / 20):
                await evil.aacquire(a_call("evil"))

        await attack(cancelled, 50, 3)
    assert share(calls) > 0.48


async def test_slots_that_are_never_released_come_back(servers: Servers) -> None:
    """When their leases end; callers of two servers take them meanwhile without end."""
    running = servers(POLICY)
    async with AsyncExitStack() as stack:
        limiter = stack.enter_context(RemoteLimiter(running[0].address))
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(each.address))
            for each in running
        ]
        stubs = [RateLimitServiceStub(channel) for channel in channels]

        async def take(number: int) -> None:
            request = AcquireRequest(model="slots", labels={"team": "evil"})
            with suppress(grpc.aio.AioRpcError):  # queued, and nobody repeats it
                await stubs[number % len(stubs)].Acquire(request, timeout=2)

        takers = [asyncio.create_task(take(number)) for number in range(12)]
        async with asyncio.timeout(10):
            for _ in range(6):
                call = a_call("honest", model="slots")
                grant = await limiter.aacquire(call)
                limiter.tell(Release(grant.reservation_id, "", call.labels))
        for each in takers:
            each.cancel()


async def test_tickets_and_ids_are_of_no_use_to_others(servers: Servers) -> None:
    """One ticket starts one call, whoever repeats it; with the labels of others it is another
    call; and nobody settles what others have reserved."""
    running = servers(POLICY)
    async with AsyncExitStack() as stack:
        stubs = [
            RateLimitServiceStub(
                await stack.enter_async_context(grpc.aio.insecure_channel(each.address))
            )
            for each in running
        ]

        async def acquire(team: str, ticket: str, number: int = 0) -> str:
            labels = {"team": team, "user": "u"}
            request = AcquireRequest(model="m", request_id=ticket, labels=labels)
            response = await stubs[number % len(stubs)].Acquire(request)
            return str(response.reservation_id)

        shared = {await acquire("honest", "guessed", number) for number in range(6)}
        assert len(shared) == 1
        [theirs] = shared
        other = await acquire("evil", "guessed")
        assert other != theirs
        settle = SettleRequest(reservation_id=theirs, labels={"team": "evil", "user": "u"})
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stubs[0].Settle(settle)
        assert refused.value.code() in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.PERMISSION_DENIED,
        )


async def test_a_child_that_fills_its_places_takes_those_of_no_other(servers: Servers) -> None:
    """It is refused, another starts at its turn, and the server has grown by less than 192 MB."""
    running = servers(POLICY)
    with (
        RemoteLimiter(running[0].address) as limiter,
        RemoteLimiter(running[-1].address, timeout=60) as evil,
        RemoteLimiter(running[-1].address, timeout=61) as evil_too,
    ):
        before, full = memory(running), asyncio.Event()
        refusals = set[tuple[str, int]]()

        async def fill(number: int) -> None:
            try:
                asked = a_call("evil", f"u{number % 4}", "slow")
                await (evil, evil_too)[number % 2].aacquire(asked)
            except LineFull as error:
                refusals.add((error.where, error.most))
                full.set()

        filling = [asyncio.create_task(fill(n)) for n in range(MOST_BELOW_CHILD + 1_000)]
        async with asyncio.timeout(100):
            await full.wait()
            for _ in range(3):
                await limiter.aacquire(a_call("honest", model="slow"))
        grown = memory(running) - before
        for each in filling:
            each.cancel()
        await asyncio.wait(filling)
    assert refusals == {("evil", MOST_BELOW_CHILD)}
    assert grown < BOUND_OF_WAITING
