"""What the page shows, in the words of the admin calls and of the metrics."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from openlimit.v1.admin_pb2 import ListBucketsResponse, PolicyInfo
from openlimit_server.engine.histogram import classic
from openlimit_server.observe.metrics import BY_NAME, HISTOGRAM, NODES, Metric
from openlimit_server.observe.numbers import Numbers
from openlimit_server.observe.page.live import Picture

_TOLD_BY_NODES = {"capacity_units", "delay_seconds", "level_units"}


def as_dict(message: Message) -> dict[str, Any]:
    """Its fields by their names in the proto."""
    return MessageToDict(message, preserving_proto_field_name=True)


def picture(
    at: float,
    trouble: str,
    numbers: Numbers,
    policies: Iterable[PolicyInfo],
    buckets: ListBucketsResponse,
) -> Picture:
    """What is known at a moment: ``trouble`` is why nothing is known of the buckets, if so.

    A policy has its ``info``, its ``nodes`` and its ``counts``: by metric, rows of labels and the
    value; of histograms, a list of those below each bound, and their sum. Takes milliseconds for a
    hundred nodes.
    """
    of_server, of_policies = _by_policy(numbers)
    nodes = {each.policy: [*map(as_dict, each.nodes)] for each in buckets.policies}
    head = {
        "at": round(at, 3),
        "trouble": trouble,
        "is_partial": buckets.is_partial,
        "counts": of_server,
        "bounds": {name: BY_NAME[name].bounds for name in ("wait_seconds", "store_seconds")},
    }
    told = {}
    for policy in policies:
        counts, listed = of_policies.get(policy.name, {}), nodes.get(policy.name, [])
        if NODES.name in counts:
            labels = [level.label for level in policy.levels]
            counts[NODES.name] = _of_nodes(counts[NODES.name], [*_paths(listed, labels)])
        told[policy.name] = json.dumps({"info": as_dict(policy), "nodes": listed, "counts": counts})
    return Picture(head, told)


def _paths(nodes: Iterable[dict[str, Any]], levels: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Of these nodes of a tree, and of those above them."""
    for node in nodes:
        path = [node.get("labels", {}).get(label, "") for label in levels[: node.get("depth", 0)]]
        yield from ((*path[:depth],) for depth in range(len(path) + 1))


def _of_nodes(
    leaves: Iterable[Sequence[Any]], paths: Iterable[tuple[str, ...]]
) -> list[list[object]]:
    """What was charged at these nodes, and below them, as rows of path, unit and number."""
    wanted = dict.fromkeys(paths)
    charged: Counter[tuple[tuple[str, ...], str]] = Counter()
    for leaf, unit, number in leaves:
        values = json.loads(leaf)
        for depth in range(len(values) + 1):
            if (path := (*values[:depth],)) in wanted:
                charged[path, unit] += number
    return [[path, unit, number] for (path, unit), number in charged.items()]


Counts = dict[str, list[list[object]]]


def _by_policy(numbers: Numbers) -> tuple[Counts, Mapping[str, Counts]]:
    """Those without a policy, and the others by policy."""
    of_server: Counts = {}
    of_policies: dict[str, Counts] = {}
    for (name, *labels), values in numbers.items():
        if name in _TOLD_BY_NODES:
            continue
        counts = of_server
        metric = BY_NAME[name]
        if metric.labels[:1] == ("policy",):
            counts = of_policies.setdefault(labels.pop(0), {})
        counts.setdefault(name, []).append([*labels, _value(metric, values)])
    return of_server, of_policies


def _value(metric: Metric, values: Sequence[float]) -> object:
    if metric.kind != HISTOGRAM:
        return values[0]
    total, *counts = values
    return [*classic(metric.bounds, counts), total]
