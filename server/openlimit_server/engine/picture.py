"""What a store has seen, as messages for operators. No I/O."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.limit import Limit
from openlimit.bucket.pending import leaked
from openlimit.bucket.tree import Rules
from openlimit.stores.views import NodeSeen
from openlimit.v1.admin_pb2 import (
    Fill,
    LevelInfo,
    LimitInfo,
    NodeInfo,
    NodeRule,
    Override,
    PolicyInfo,
)
from openlimit.wire.fields import duration
from openlimit_server.config.levels import LevelSettings
from openlimit_server.config.policies import PolicySettings


def bucket_seen(limits: Sequence[Limit], node: NodeSeen | None) -> Bucket:
    """A bucket with these limits that decides as the one that was seen, or as a new one."""
    bucket = Bucket(limits)
    if node is not None:
        levels = (min(node.levels.get(limit.name, 0.0), limit.most) for limit in limits)
        bucket.levels, bucket.at, bucket.paused = tuple(levels), node.at, node.paused
        bucket.limited_by = node.limited_by
    return bucket


def node_info(
    labels: Mapping[str, str],
    depth: int,
    rules: Rules,
    node: NodeSeen | None,
    now: float,
    siblings: float = 0.0,
) -> NodeInfo:
    """A node; ``siblings`` are the weights of those of one that does not exist yet."""
    bucket = bucket_seen(rules.limits, node)
    info = NodeInfo(labels=labels, depth=depth, fills=_fills(bucket, now))
    if depth:
        info.weight = rules.weight
        info.share = node.share if node else rules.weight / (siblings + rules.weight)
    if rules.slots < inf:
        info.slots = int(rules.slots)
    if node is None:
        return info
    info.running, info.waiting = node.running, node.waiting
    until, info.limited_by = max(bucket.at, bucket.paused), bucket.limited_by
    if node.held_until > -inf:
        until, info.limited_by = max(until, node.held_until), node.held_by
    if until <= now:
        info.limited_by = ""
    elif until < inf:
        info.wait.CopyFrom(duration(until - now))
    if bucket.paused > now:
        info.paused.CopyFrom(duration(bucket.paused - now))
    return info


def busy(info: NodeInfo) -> tuple[int, float]:
    """What nodes are in the order of: in how many calls wait, then how full they are."""
    return info.waiting, max((fill.level / fill.limit.capacity for fill in info.fills), default=0)


def policy_info(settings: PolicySettings, overrides: Iterable[Override]) -> PolicyInfo:
    """A policy, and the overrides that it includes."""
    return PolicyInfo(
        name=settings.name,
        models=settings.models,
        match=settings.match,
        split_by=settings.split_by,
        mode=settings.mode,
        limits=map(_limit_info, settings.limits),
        concurrent=settings.concurrent,
        levels=map(_level_info, settings.levels),
        max_wait=duration(settings.default_wait),
        lease=duration(settings.lease * 1e6) if settings.has_slots else None,
        overrides=overrides,
    )


def _fills(bucket: Bucket, now: float) -> Iterable[Fill]:
    levels = leaked(bucket.levels, bucket.limits, now - bucket.at)
    for limit, level in zip(bucket.limits, levels, strict=True):
        yield Fill(limit=_limit_info(limit), level=level)


def _limit_info(limit: Limit) -> LimitInfo:
    return LimitInfo(
        unit=limit.unit,
        amount=limit.amount,
        period=duration(limit.period),
        capacity=limit.capacity,
    )


def _level_info(level: LevelSettings) -> LevelInfo:
    values = {*level.weights, *level.overrides}
    return LevelInfo(
        label=level.label,
        rule=NodeRule(
            limits=map(_limit_info, level.limits), concurrent=level.concurrent, weight=1.0
        ),
        values={value: _rule_of(level, value) for value in values},
    )


def _rule_of(level: LevelSettings, value: str) -> NodeRule:
    return NodeRule(
        limits=map(_limit_info, level.limits_of(value)),
        concurrent=level.concurrent_of(value),
        weight=level.weights.get(value, 1.0),
    )
