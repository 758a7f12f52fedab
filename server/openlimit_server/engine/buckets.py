"""Which buckets and nodes are in use, for operators."""

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

from openlimit.bucket.tree import Rules
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.stores.views import AsyncViews, Find, Found, Look, NodeSeen, Seen
from openlimit.v1.admin_pb2 import ListBucketsResponse, NodeInfo, PolicyBuckets
from openlimit_server.engine import routing
from openlimit_server.engine.picture import busy, node_info
from openlimit_server.engine.routing import Policy

_MOST_LOOKS = 2000
_USUAL, _MOST = 10, 100  # buckets and nodes of a policy


async def list_buckets(
    rules: routing.Rules, views: AsyncViews, name: str, page_size: int
) -> ListBucketsResponse:
    """Those of all policies, or of one. Raises InvalidRequest and LimiterUnavailable."""
    if not 0 <= page_size <= _MOST:
        raise InvalidRequest("page_size", f"must be from 0 to {_MOST}, not {page_size}")
    if name and name not in rules.by_name:
        raise InvalidRequest("policy", f"there is no policy {name!r}")
    most = page_size or _USUAL
    policies = [rules.by_name[name]] if name else rules.all
    found = await _find(policies, views, most)
    looks = [
        (policy, Look(bucket, None if policy.paths else (), most))
        for policy in policies
        for bucket in ([policy.bucket] if policy.bucket else found.kept)
        if policy.bucket or bucket.partition(":")[0] == policy.name
    ]
    answers = await views.adecide([look for _, look in looks[:_MOST_LOOKS]])
    is_whole = found.is_whole and len(looks) <= _MOST_LOOKS
    nodes: dict[str, list[NodeInfo]] = {policy.name: [] for policy in policies}
    for (policy, look), seen in zip(looks, answers, strict=False):
        if isinstance(seen, LimiterUnavailable):
            raise seen
        assert isinstance(seen, Seen)
        is_whole = is_whole and seen.is_whole
        nodes[policy.name] += _nodes(policy, look.bucket, seen)
    return ListBucketsResponse(
        policies=[
            PolicyBuckets(policy=policy.name, nodes=_in_order(nodes[policy.name], most))
            for policy in policies
        ],
        is_partial=not is_whole,
    )


async def _find(policies: Sequence[Policy], views: AsyncViews, most: int) -> Found:
    """The buckets of those that are split."""
    split = [policy.name for policy in policies if not policy.bucket]
    if not split:
        return Found({}, is_whole=True)
    [found] = await views.adecide([Find(split, most)])
    if isinstance(found, LimiterUnavailable):
        raise found
    assert isinstance(found, Found)
    return found


def _nodes(policy: Policy, bucket: str, seen: Seen) -> Iterator[NodeInfo]:
    own = labels_of(policy, bucket)
    levels = policy.settings.levels
    for node in seen.nodes:
        depth = len(node.path)
        if depth > len(levels):  # of levels that the policy had before
            continue
        below = {level.label: value for level, value in zip(levels, node.path, strict=False)}
        yield node_info(own | below, depth, _rules(policy, below, node), node, seen.now)


def _rules(policy: Policy, labels: Mapping[str, str], node: NodeSeen) -> Rules:
    if policy.paths is None:
        return Rules(policy.limits)
    return policy.paths.find(labels).rules[len(node.path)]


def labels_of(policy: Policy, bucket: str) -> dict[str, str]:
    """The labels that a policy's bucket is of, from its name; none where it has only a hash of
    them."""
    split = bucket[len(policy.name) + 2 : -1]
    labels, values = policy.settings.split_by, split.split(":")
    if split == f":{policy.name}":
        values = [""] * len(labels)
    if len(values) != len(labels):
        return {}
    return {label: unquote(value) for label, value in zip(labels, values, strict=True)}


def _in_order(nodes: list[NodeInfo], most: int) -> list[NodeInfo]:
    """The busiest first, but for the root of all."""
    roots = [node for node in nodes if not node.depth]
    first = roots if len(roots) == 1 else []
    others = sorted((node for node in nodes if node not in first), key=busy, reverse=True)
    return [*first, *others[:most]]
