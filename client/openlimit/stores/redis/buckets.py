"""The buckets of a Redis for one event loop, on whichever of its servers they are."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, cast, overload

from redis.exceptions import AskError, MovedError

from openlimit.background import tell_if_failed
from openlimit.errors import LimiterUnavailable
from openlimit.stores import lines as lines_
from openlimit.stores import views as views_
from openlimit.stores.protocol import Acquire, Answer, Cancel, Grants, Operation
from openlimit.stores.redis.address import RedisAddress
from openlimit.stores.redis.cluster import ClusterMap, HostAndPort, leads_to
from openlimit.stores.redis.keys import key_of
from openlimit.stores.redis.node import Clock, RedisNode
from openlimit.stores.redis.script import AnyAnswer, AnyOperation

_MOST_REDIRECTIONS = 3
_HOMELESS = "no node of the cluster has the hash slot of this bucket: see CLUSTER INFO"


class RedisBuckets:
    """The buckets of a Redis, for one event loop: an AsyncStore and AsyncLines.

    Callers of the same time share round trips, see node.py; none waits longer than the address's
    timeout. An outage is over as soon as Redis is back.
    ``clock`` returns microseconds, for tests; None for that of Redis.
    """

    one_lot = False  # marks are beside their bucket
    shared = True

    def __init__(self, address: RedisAddress, clock: Clock | None = None) -> None:
        self._address = address
        self._clock = clock
        self._nodes: dict[HostAndPort | None, RedisNode] = {}
        self._map = ClusterMap(address) if address.topology == "cluster" else None
        self._under_way = 0
        self._idle = asyncio.Event()
        """No caller is under way; cleared by whoever waits for that."""
        self._giving_back: set[asyncio.Task[list[Answer]]] = set()

    @property
    def lines(self) -> "RedisBuckets":
        """Lines in the same buckets."""
        return self

    @property
    def views(self) -> "RedisBuckets":
        """What operators see of the same buckets."""
        return self

    async def aclose(self) -> None:
        while self._under_way or self._giving_back or self._trips():
            if self._under_way:
                self._idle.clear()
                await self._idle.wait()
            else:
                await asyncio.wait(self._giving_back | self._trips())
        for node in self._nodes.values():
            await node.aclose()
        if self._map:
            await self._map.aclose()

    @overload
    async def adecide(self, operations: Sequence[Operation]) -> list[Answer]: ...
    @overload
    async def adecide(self, operations: Sequence[lines_.Operation]) -> list[lines_.Answer]: ...
    @overload
    async def adecide(self, operations: Sequence[views_.Operation]) -> list[views_.Answer]: ...
    async def adecide(self, operations: Sequence[AnyOperation]) -> Any:
        self._under_way += 1
        try:
            if self._map and operations and isinstance(operations[0], views_.Find):
                return [await self._find_everywhere(self._map, each) for each in operations]
            if self._map:
                return await self._ask_cluster(self._map, operations)
            return await self._node(None).ask(operations)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def _ask_cluster(
        self, cluster: ClusterMap, operations: Sequence[AnyOperation]
    ) -> list[AnyAnswer]:
        if not await cluster.ready():
            return [self._address.unavailable(cluster.failure) for _ in operations]
        answers: dict[int, AnyAnswer] = {}
        by_node: dict[HostAndPort | None, list[int]] = {}
        for i, operation in enumerate(operations):
            node = cluster.node_of(key_of(operation.bucket, self._address.prefix))
            by_node.setdefault(node, []).append(i)

        async def ask(
            node: HostAndPort | None, which: list[int], asking: bool, redirected: int
        ) -> None:
            if node is None or redirected > _MOST_REDIRECTIONS:
                cluster.doubt()
                answers.update((i, self._address.unavailable(_HOMELESS)) for i in which)
                return
            elsewhere: dict[tuple[HostAndPort, bool], list[int]] = {}
            found = await self._node(node).ask([operations[i] for i in which], asking)
            for i, answer in zip(which, found, strict=True):
                if isinstance(answer, AskError):  # the script did not run there
                    there = leads_to(answer.host, answer.port, node[0])
                    is_asking = not isinstance(answer, MovedError)
                    elsewhere.setdefault((there, is_asking), []).append(i)
                else:
                    answers[i] = answer
                if isinstance(answer, MovedError | LimiterUnavailable):
                    cluster.doubt()
            for (there, is_asking), others in elsewhere.items():
                await ask(there, others, is_asking, redirected + 1)

        try:
            # Each node on its own: one that hangs keeps the others' callers waiting no longer.
            await asyncio.gather(*(ask(node, which, False, 0) for node, which in by_node.items()))
        except asyncio.CancelledError:
            self.give_back([operations[i] for i in answers], list(answers.values()))
            raise
        return [answers[i] for i in range(len(operations))]

    async def _find_everywhere(
        self, cluster: ClusterMap, find: AnyOperation
    ) -> views_.Found | LimiterUnavailable:
        """What all masters find, each of its own."""
        assert isinstance(find, views_.Find)
        if not await cluster.ready():
            return self._address.unavailable(cluster.failure)
        parts = await asyncio.gather(*(self._node(at).ask([find]) for at in cluster.masters))
        kept, is_whole = dict[str, float](), True
        for [part] in parts:
            if not isinstance(part, views_.Found):  # a script without keys is not sent elsewhere
                cluster.doubt()
                return cast(LimiterUnavailable, part)
            kept |= part.kept
            is_whole = is_whole and part.is_whole
        names = sorted(kept, key=kept.__getitem__, reverse=True)
        return views_.Found({name: kept[name] for name in names}, is_whole)

    def _trips(self) -> set[asyncio.Task[None]]:
        """Under way, also where all callers have left: what they are granted is given back."""
        return {node.trips for node in self._nodes.values() if node.trips}

    def _node(self, at: HostAndPort | None) -> RedisNode:
        node = self._nodes.get(at)
        if node is None:
            node = self._nodes[at] = RedisNode(self._address, at, self._clock, self.give_back)
        return node

    def give_back(
        self, operations: Sequence[AnyOperation], answers: Sequence[AnyAnswer | AskError]
    ) -> None:
        """In the background, give back what was granted to a caller that is gone."""
        if cancels := cancels_of(operations, answers):
            task = asyncio.get_running_loop().create_task(self.adecide(cancels))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
            task.add_done_callback(partial(tell_if_failed, "giving back"))


def cancels_of(
    operations: Sequence[AnyOperation], answers: Sequence[AnyAnswer | AskError]
) -> list[Cancel]:
    """What gives back all that was granted and has not started. What has a request stays: its
    caller can ask again."""
    return [
        Cancel(operation.bucket, operation.limits, operation.lot, operation.first + i, None)
        for operation, answer in zip(operations, answers, strict=True)
        if isinstance(operation, Acquire) and isinstance(answer, Grants) and not operation.request
        for i, wait in enumerate(answer.waits)
        if wait and i not in answer.others
    ]
