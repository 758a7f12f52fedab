"""What the page shows, in the words of the admin calls and of the metrics."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from openlimit.v1.admin_pb2 import ListBucketsResponse, PolicyInfo
from openlimit_server.observe.metrics import BY_NAME
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
    told = {
        policy.name: json.dumps(
            {
                "info": as_dict(policy),
                "nodes": nodes.get(policy.name, []),
                "counts": of_policies.get(policy.name, {}),
            }
        )
        for policy in policies
    }
    return Picture(head, told)


Counts = dict[str, list[list[object]]]


def _by_policy(numbers: Numbers) -> tuple[Counts, Mapping[str, Counts]]:
    """Those without a policy, and the others by policy."""
    of_server: Counts = {}
    of_policies: dict[str, Counts] = {}
    for (name, *labels), values in numbers.items():
        if name in _TOLD_BY_NODES:
            continue
        counts = of_server
        if BY_NAME[name].labels[:1] == ("policy",):
            counts = of_policies.setdefault(labels.pop(0), {})
        counts.setdefault(name, []).append([*labels, values if len(values) > 1 else values[0]])
    return of_server, of_policies
