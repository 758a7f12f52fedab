"""What would become of a call, and why. Nothing is charged."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from openlimit.bucket.bucket import Bucket
from openlimit.bucket.calls import CONCURRENT, MOST_IN_TREE, wait_of
from openlimit.bucket.limit import SECOND, Costs
from openlimit.bucket.line import HORIZON
from openlimit.bucket.tree import Rules
from openlimit.errors import LimiterUnavailable
from openlimit.operations import Acquire
from openlimit.stores.views import AsyncViews, Look, NodeSeen, Seen
from openlimit.v1 import admin_pb2 as messages
from openlimit.wire.fields import duration
from openlimit_server.engine import routing
from openlimit_server.engine.picture import bucket_seen, node_info
from openlimit_server.engine.routing import Policy
from openlimit_server.engine.targets import bucket_of


class _Verdict(NamedTuple):
    verdict: messages.Verdict
    reason: str
    wait: float = 0.0
    """Microseconds."""
    held_at: int | None = None
    limited_by: str = ""


async def explain(
    rules: routing.Rules, views: AsyncViews, call: Acquire
) -> messages.ExplainResponse:
    """As AdminService.Explain. Raises UnknownModel and LimiterUnavailable."""
    policy = rules.first_that_covers(call.model, call.key, call.labels)
    labels = {**dict(call.labels), "model": call.model, "key": call.key}
    charged = policy.costs_of_one(call.model, call.costs)
    values: Sequence[str] = ()
    nodes: Sequence[Rules] = [Rules(policy.limits)]
    costs: Sequence[Costs] = [charged]
    if policy.paths:
        path = policy.paths.find(labels)
        values, nodes, costs = path.values, path.rules, path.rows(charged)
    [seen] = await views.adecide([Look(policy.bucket or bucket_of(policy, labels), values)])
    if isinstance(seen, LimiterUnavailable):
        raise seen
    assert isinstance(seen, Seen)
    explained = _Explained(policy, nodes, costs, seen)
    found = explained.verdict(_max_wait(policy, call.max_wait))
    answer = messages.ExplainResponse(
        policy=policy.name,
        mode=policy.settings.mode,
        path=explained.path(labels),
        costs={unit: int(cost) for unit, cost in zip(policy.units, charged, strict=True)},
        verdict=found.verdict,
        wait=duration(found.wait),
        limited_by=found.limited_by,
        reason=found.reason,
    )
    if found.held_at is not None:
        answer.held_at = found.held_at
    return answer


def _max_wait(policy: Policy, seconds: float | None) -> float:
    """Microseconds that a call waits at most, in whatever mode."""
    settings = policy.settings
    if seconds is None:
        return settings.default_wait
    return min(seconds * SECOND, settings.longest_wait)


class _Explained:
    def __init__(
        self, policy: Policy, rules: Sequence[Rules], costs: Sequence[Costs], seen: Seen
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._costs = costs
        self._now = seen.now
        self._nodes: list[NodeSeen | None] = [*seen.nodes, *[None] * len(rules)][: len(rules)]
        self._buckets: list[Bucket] = [
            bucket_seen(each.limits, node) for each, node in zip(rules, self._nodes, strict=True)
        ]

    def path(self, labels: Mapping[str, str]) -> list[messages.NodeInfo]:
        """The nodes on the path of a call with these labels."""
        infos, above = list[messages.NodeInfo](), 0.0
        split, levels = self._policy.settings.split_by, self._policy.settings.levels
        for depth, (rules, node) in enumerate(zip(self._rules, self._nodes, strict=True)):
            names = (*split, *(level.label for level in levels[:depth]))
            own = {name: labels.get(name, "") for name in names}
            infos.append(node_info(own, depth, rules, node, self._now, above))
            above = node.weights if node else 0.0
        return infos

    def verdict(self, max_wait: float) -> _Verdict:
        """What Acquire would answer a call that waits so long at most."""
        for depth, (rules, row) in enumerate(zip(self._rules, self._costs, strict=True)):
            for limit, cost in zip(rules.limits, row, strict=True):
                if cost > limit.amount:
                    why = f"it costs {cost:,.0f} {limit.unit}, and the limit is {limit.amount:,.0f}"
                    return _Verdict(messages.VERDICT_NEVER, why, 0, depth, limit.unit)
        return self._alone(max_wait) if self._policy.paths is None else self._in_line(max_wait)

    def _alone(self, max_wait: float) -> _Verdict:
        start, unit = self._buckets[0].earliest(self._costs[0], self._now)
        wait = start - self._now
        if not wait:
            return _starts()
        kind = messages.VERDICT_REFUSED if wait > max_wait else messages.VERDICT_WAITS
        return _Verdict(kind, _in_words(kind, wait, unit), wait, 0, unit)

    def _in_line(self, max_wait: float) -> _Verdict:
        latest, unit, at = self._latest()
        wait = latest - self._now
        root, leaf = self._nodes[0], self._nodes[-1]
        before = leaf.waiting if leaf else 0
        estimate = self._behind(leaf, wait) if leaf and before else 0.0
        if wait > max_wait:
            kind, wait = messages.VERDICT_REFUSED, max(wait, estimate)
            return _Verdict(kind, _in_words(kind, wait, unit), wait, at, unit)
        if root and root.waiting >= MOST_IN_TREE:
            return _Verdict(messages.VERDICT_REFUSED, "too many calls wait already", 0, 0)
        for depth in reversed(range(len(self._nodes))):
            node, slots = self._nodes[depth], self._rules[depth].slots
            if node and node.held_until > -inf:
                held = node.held_until - self._now if node.held_until < inf else 0.0
                return _queues(max(held, wait, estimate, 0.0), depth, node.held_by, before)
            if node and node.running >= slots:
                return _queues(max(wait, estimate), depth, CONCURRENT, before)
        if before or wait > HORIZON or (wait and at):
            return _queues(max(wait, estimate), at if wait else None, unit, before)
        if not wait:
            return _starts()
        kind = messages.VERDICT_WAITS
        return _Verdict(kind, _in_words(kind, wait, unit), wait, at, unit)

    def _behind(self, leaf: NodeSeen, wait: float) -> float:
        """Microseconds until all have started that wait in a leaf, and this one; ``wait`` is that
        of its first."""
        spans = [
            cost / limit.rate
            for rules, row in zip(self._rules, self._costs, strict=True)
            for limit, cost in zip(rules.limits, row, strict=True)
        ]
        return wait_of(leaf.waiting + 1, leaf.pace, wait, max(spans, default=0.0))

    def _latest(self) -> tuple[float, str, int]:
        """When the last node has room, the unit that it waits for, and which node it is."""
        latest, unit, at = self._now, "", 0
        for depth, (bucket, row) in enumerate(zip(self._buckets, self._costs, strict=True)):
            start, by = bucket.earliest(row, self._now)
            if start > latest:
                latest, unit, at = start, by, depth
        return latest, unit, at


def _starts() -> _Verdict:
    return _Verdict(messages.VERDICT_STARTS, "it would start at once")


def _queues(wait: float, held_at: int | None, limited_by: str, before: int) -> _Verdict:
    why = "it would wait in line" + (f" behind {before} calls with its labels" if before else "")
    if limited_by == CONCURRENT:
        why += ", until a slot is free"
    elif limited_by:
        why += f", for {limited_by}"
    return _Verdict(messages.VERDICT_QUEUES, why, wait, held_at, limited_by)


def _in_words(kind: messages.Verdict, wait: float, unit: str) -> str:
    because = f"for {unit}" if unit else "since it is paused"
    seconds = f"{wait / SECOND:.3f} s"
    if kind == messages.VERDICT_REFUSED:
        return f"it would be refused: it would have to wait {seconds} {because}"
    return f"it would start in {seconds}: it would wait {because}"
