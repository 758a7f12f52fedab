"""How full the buckets of policies are: asked when somebody wants to know."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from openlimit.bucket.limit import SECOND
from openlimit.stores.lines import StoreOfLines
from openlimit.stores.protocol import Levels, Peek
from openlimit.stores.views import Look, Seen
from openlimit.v1.admin_pb2 import NodeInfo
from openlimit_server.engine.picture import node_info
from openlimit_server.engine.routing import Policy
from openlimit_server.observe.numbers import Key, Numbers

_WITHIN = 2.0  # seconds


async def levels(
    store: StoreOfLines, policies: Iterable[Policy], busiest: Mapping[str, str]
) -> Numbers:
    """Of each policy one bucket: its only one, or, by its name, the one that is ``busiest``. And
    of its first level the nodes that the file of policies names, so that there are not more.

    Nothing about buckets that the store does not tell of in time. Never raises.
    """
    policies = [*policies]
    numbers: Numbers = {}
    with suppress(TimeoutError):
        async with asyncio.timeout(_WITHIN):
            numbers.update(await _of_buckets(store, policies, busiest))
            numbers.update(await _of_nodes(store, policies))
    return numbers


async def _of_buckets(
    store: StoreOfLines, policies: Iterable[Policy], busiest: Mapping[str, str]
) -> Numbers:
    looks = [
        (policy, Peek(bucket, policy.limits))
        for policy in policies
        if (bucket := policy.bucket or busiest.get(policy.name)) and policy.limits
    ]
    numbers: Numbers = {}
    answers = await store.adecide([look for _, look in looks])
    for (policy, _), answer in zip(looks, answers, strict=True):
        if isinstance(answer, Levels):
            numbers[("delay_seconds", policy.name)] = [answer.wait / SECOND]
            for limit, level in zip(policy.limits, answer.levels, strict=True):
                key = policy.name, limit.unit, f"{limit.period / SECOND:g}"
                numbers[("level_units", *key)] = [level]
                numbers[("capacity_units", *key)] = [limit.capacity]
    return numbers


async def _of_nodes(store: StoreOfLines, policies: Iterable[Policy]) -> Numbers:
    looks = [
        (policy, value, Look(policy.bucket, [value]))
        for policy in policies
        if policy.bucket and policy.settings.levels
        for value in policy.settings.levels[0].named
    ]
    numbers: Numbers = {}
    answers = await store.views.adecide([look for *_, look in looks])
    for (policy, value, _), seen in zip(looks, answers, strict=True):
        if isinstance(seen, Seen):
            label = policy.settings.levels[0].label
            numbers.update(_of_node((policy.name, label, value), _info(policy, label, value, seen)))
    return numbers


def _info(policy: Policy, label: str, value: str, seen: Seen) -> NodeInfo:
    assert policy.paths
    labels, node = {label: value}, next(iter(seen.nodes[1:]), None)
    return node_info(labels, 1, policy.paths.find(labels).rules[1], node, seen.now)


def _of_node(node: Key, info: NodeInfo) -> Iterator[tuple[Key, list[float]]]:
    yield ("node_line_calls", *node), [info.waiting]
    yield ("node_running_calls", *node), [info.running]
    for fill in info.fills:
        key = *node, fill.limit.unit, f"{fill.limit.period.ToMicroseconds() / SECOND:g}"
        yield ("node_level_units", *key), [fill.level]
        yield ("node_capacity_units", *key), [fill.limit.capacity]
