"""What is counted, as numbers that can be sent from one process to another and added up."""

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import zip_longest

import grpc

from openlimit_server.config.reload import Reload
from openlimit_server.engine.counts import Counts
from openlimit_server.engine.histogram import Histogram
from openlimit_server.observe.metrics import BY_NAME, COUNTER, HISTOGRAM, NODES

Key = tuple[str, ...]
"""A metric's name, without openlimit_, and the values of its labels."""
Numbers = dict[Key, list[float]]
"""One number each; of a histogram, the sum and the counts, of which the last may be missing."""


def of_counts(counts: Counts) -> Iterator[tuple[Key, list[float]]]:
    """All that the engine has counted. Takes some microseconds a policy."""
    for reason, number in counts.errors.items():
        yield ("errors", reason), [number]
    for asked, number in counts.proxied.items():
        yield ("proxy_decisions", *asked), [number]
    for name, tally in counts.by_policy.items():
        for kind, number in tally.decisions.items():
            yield ("decisions", name, *kind), [number]
        for unit, number in tally.reserved.items():
            yield ("reserved_units", name, unit), [number]
        for unit, number in tally.settled.items():
            yield ("settled_units", name, unit), [number]
        for node, units in tally.nodes.items():
            for unit, number in units.items():
                yield (NODES.name, name, json.dumps(node), unit), [number]
        yield ("wait_seconds", name), of_histogram(tally.waits)
        if tally.estimates.counts:
            yield ("estimate_ratio", name), of_histogram(tally.estimates)
        yield ("pauses", name), [tally.pauses]


def of_histogram(histogram: Histogram) -> list[float]:
    return [histogram.sum, *histogram.counts]


def build() -> Numbers:
    """Of this installation."""
    versions = version("openlimitHW"), platform.python_version(), grpc.__version__
    return {("build_info", *versions): [1]}


def of_reloads(reload: Reload) -> Numbers:
    """How often files of configuration were loaded, and how they are."""
    numbers: Numbers = {
        ("reloads", "done"): [reload.done],
        ("reloads", "refused"): [reload.refused],
        ("invalid_files",): [reload.invalid],
    }
    if reload.expires is not None:
        numbers[("certificate_expiry_timestamp_seconds",)] = [reload.expires]
    return numbers


def added(*some: Mapping[Key, list[float]]) -> Numbers:
    """Number by number."""
    total: Numbers = {}
    for numbers in some:
        for key, values in numbers.items():
            pairs = zip_longest(total.get(key, ()), values, fillvalue=0.0)
            total[key] = [before + value for before, value in pairs]
    return total


def lasting(numbers: Numbers) -> Numbers:
    """Those that do not end with their process: what it had counted, and not how it was."""
    return {
        key: values
        for key, values in numbers.items()
        if BY_NAME[key[0]].kind in (COUNTER, HISTOGRAM)
    }


def to_rows(numbers: Numbers) -> list[list[object]]:
    """As JSON can be made of them."""
    return [[*item] for item in numbers.items()]


def from_rows(rows: list[tuple[list[str], list[float]]]) -> Numbers:
    """As they were."""
    return {(*key,): values for key, values in rows}
