"""Every metric: its name, and what it says."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from openlimit_server.engine.counts import RATIOS, WAITS

PREFIX = "openlimit_"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
STORE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
"""Bounds of what the store takes, in seconds."""


class Metric(NamedTuple):
    """Labels are names of policies, units and words of this table: never what callers choose."""

    name: str
    """Without openlimit_; nor the _total of a counter."""
    kind: str
    labels: Sequence[str]
    says: str
    bounds: Sequence[float] = ()


METRICS = (
    Metric(
        *("decisions", COUNTER, ("policy", "outcome", "reason", "unit")),
        "Acquisitions: granted (start at once), waited (granted a later start), refused, shadow "
        "(would have been refused), unlimited (not charged), repeated (granted before) or error; "
        "the reason as on the wire, and the unit for which they wait or were refused",
    ),
    Metric(
        *("wait_seconds", HISTOGRAM, ("policy",)),
        "Time from the question to the start of granted acquisitions",
        WAITS,
    ),
    Metric("reserved_units", COUNTER, ("policy", "unit"), "Units charged to acquisitions"),
    Metric(
        *("settled_units", COUNTER, ("policy", "unit")),
        "Units that settled calls have really cost",
    ),
    Metric(
        *("estimate_ratio", HISTOGRAM, ("policy",)),
        "What settled calls used, divided by what was reserved, of policies with reserve_output: "
        "learned, in output tokens if these are limited, else in tokens",
        RATIOS,
    ),
    Metric(
        *("level_units", GAUGE, ("policy", "unit", "period")),
        "How full the bucket of a limit is; of a policy that is split, the one with the longest "
        "wait of late; the period in seconds",
    ),
    Metric(
        *("capacity_units", GAUGE, ("policy", "unit", "period")),
        "How much that bucket takes at once",
    ),
    Metric(
        *("delay_seconds", GAUGE, ("policy",)),
        "Time until that bucket is free: starts are handed out until then, or there is a pause",
    ),
    Metric(
        *("proxy_decisions", COUNTER, ("domain", "outcome")),
        "Requests of proxies: ok or over_limit; the domain is empty for one that is not configured",
    ),
    Metric(
        *("bodies", COUNTER, ("outcome",)),
        "Request bodies whose tokens the server was to count: counted, invalid or unavailable (not "
        "in time, or too much waited already)",
    ),
    Metric(
        *("node_level_units", GAUGE, ("policy", "label", "value", "unit", "period")),
        "How full the bucket of a limit of a node is, of nodes that the file of policies names in "
        "the weights or overrides of a policy's first level",
    ),
    Metric(
        *("node_capacity_units", GAUGE, ("policy", "label", "value", "unit", "period")),
        "How much that bucket takes at once",
    ),
    Metric(
        *("node_line_calls", GAUGE, ("policy", "label", "value")),
        "Calls that wait in line below that node, on all servers of the store",
    ),
    Metric(
        *("node_running_calls", GAUGE, ("policy", "label", "value")),
        "Calls that have a slot at that node",
    ),
    Metric("line_calls", GAUGE, ("policy",), "Calls that are held in line"),
    Metric("pauses", COUNTER, ("policy",), "Pauses that callers reported of their provider"),
    Metric(
        *("errors", COUNTER, ("reason",)),
        "Errors answered to any operation, refusals included, by their reason on the wire",
    ),
    Metric("internal_errors", COUNTER, (), "Faults of the server itself, which its log tells of"),
    Metric(
        *("store_seconds", HISTOGRAM, ()),
        "Time that the store takes for the operations of one moment",
        STORE,
    ),
    Metric("store_errors", COUNTER, (), "Operations that the store did not decide"),
    Metric("streams", GAUGE, (), "Open streams of clients"),
    Metric("connections", GAUGE, (), "TCP connections of clients"),
    Metric(
        *("connections_ended", COUNTER, ()),
        "Connections that were ended because their address had too many",
    ),
    Metric("ready", GAUGE, (), "Processes whose service is SERVING"),
    Metric(
        "reloads",
        COUNTER,
        ("result",),
        "Files of policies, keys or certificates that were taken over or refused",
    ),
    Metric(
        *("invalid_files", GAUGE, ()),
        "How many of the policies, the keys and the certificates have changed to something "
        "invalid, so that those from before go on",
    ),
    Metric(
        *("certificate_expiry_timestamp_seconds", GAUGE, ()),
        "When the server's certificate expires, in seconds since 1970; none without TLS",
    ),
    Metric("build_info", GAUGE, ("version", "python", "grpc"), "What runs; always 1"),
)
NODES = Metric(
    *("node_units", GAUGE, ("policy", "node", "unit")),
    "Units charged at a leaf of a tree: the values of its labels as a list in JSON; callers "
    "choose these, so it is for the page and no metric",
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in (*METRICS, NODES)}
