"""Operations of lines as the script reads them; line_replies.py has its answers. No I/O.

A call carries each rule once, by a digest of its content, so that nodes of all servers compare it.
"""

from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha1
from itertools import chain
from math import inf
from random import getrandbits
from typing import Any, get_args

from openlimit.bucket import calls, line, tree
from openlimit.bucket.calls import Call, Calls
from openlimit.bucket.limit import Costs, least_levels
from openlimit.bucket.tree import Rules
from openlimit.stores import lines
from openlimit.stores.lines import Operation
from openlimit.stores.protocol import MARKED, SETTLED_WITHIN
from openlimit.stores.redis.keys import beside, to_bytes, to_json
from openlimit.stores.stems import by_stem

KINDS = frozenset(get_args(Operation))
_NAMES = {kind: kind.__name__.lower() for kind in KINDS}

_CONSTANTS = {
    "horizon": line.HORIZON,
    "at_once": line.MOST_AT_ONCE,
    "in_leaf": calls.MOST_IN_LEAF,
    "in_tree": calls.MOST_IN_TREE,
    "below_child": calls.MOST_BELOW_CHILD,
    "children": tree.MOST_CHILDREN,
    "repeats": lines.MOST_REPEATABLE,
    "over_kept": lines.OVER_KEPT,
    "silent": lines.SILENT,
    "jump": lines.JUMP,
    "shortest": tree.SHORTEST,
    "latest_use": tree.LATEST_USE,
    "least_use": tree.LEAST_USE,
    "latest_pace": tree.LATEST_PACE,
    "settled_within": SETTLED_WITHIN,
    "marked": MARKED,
}


def root_rules(operation: Any) -> Rules | None:
    """What an operation says of the root; None if nothing."""
    match operation:
        case lines.Follow():
            return operation.rules[0]
        case lines.Ask() | lines.Cancel() | lines.Renew():
            return operation.call.rules[0]
        case lines.AskAtOnce() | lines.Settle():
            return operation.calls.rules[0]
        case lines.Penalize() | lines.Observe():
            return operation.rules
    return None


def encode(
    key: str, prefix: str, clock: float | None, operations: Sequence[Operation]
) -> Sequence[Any]:
    """The number of the keys, the keys, the JSON and the columns."""
    encoder = _Encoder(key, prefix)
    written = [encoder.write(operation) for operation in operations]
    content = _CONSTANTS | {
        "clock": clock,
        "line": beside(key, prefix, "line", ""),
        "lots": beside(key, prefix, "lot", ""),
        "fresh": f"{getrandbits(64):x}",
        "rules": encoder.rules,
        "root": encoder.root,
        "operations": written,
    }
    return len(encoder.keys), *encoder.keys, to_json(content), to_bytes(encoder.columns)


class _Encoder:
    def __init__(self, key: str, prefix: str) -> None:
        self._key, self._prefix = key, prefix
        self.keys = [key, beside(key, prefix, "line", "tree")]
        self.rules: list[Sequence[Any]] = []
        self.columns = array("d")
        self.root: int | bool = False
        self._which: dict[int, int] = {}

    def write(self, operation: Operation) -> Sequence[Any]:
        if root := root_rules(operation):
            self.root = self._rules(root)
        match operation:
            case lines.Penalize(_, _, length):
                return "penalize", length
            case lines.Observe(_, rules, remaining):
                return "observe", least_levels(rules.limits, remaining)
            case lines.Follow(_, path, rules):
                return "follow", [*path], [*map(self._rules, rules)]
            case lines.Turn(_, server, epoch):
                return "turn", server, epoch.partition(".")[2]
            case lines.GiveUp() | lines.Where():
                return _NAMES[type(operation)], *operation[1:]
            case lines.Release(_, names):
                return "release", _runs(names)
            case lines.AskAtOnce() | lines.Settle():
                return self._run(operation)
        return _NAMES[type(operation)], *self._call(operation.call), *self._rest(operation)

    def _run(self, operation: lines.AskAtOnce | lines.Settle) -> Sequence[Any]:
        """Of many calls, with columns."""
        calls = operation.calls
        if isinstance(operation, lines.AskAtOnce):
            written = self._calls(calls)
            self._extend(_columns_by_unit(calls, calls.costs))
            _, _, server, max_wait, lot, number, kept = operation
            asked = server, _bound(max_wait), lot, number, kept
            return "askatonce", _runs(calls.names), *written, *asked
        _, _, lot, numbers, starts, actual = operation
        if starts is not None:
            self._lot(lot)
        written = self._calls(calls)
        self._extend((numbers, starts or [0.0] * len(numbers)))
        self._extend(_columns_by_unit(calls, calls.costs))
        self._extend(_columns_by_unit(calls, actual))
        runs = _runs(calls.names) if calls.lease else ()  # they name nothing there
        return "settle", runs, *written, False if starts is None else lot

    def _rest(self, operation: lines.Ask | lines.Cancel | lines.Renew) -> Sequence[Any]:
        """What follows the call."""
        match operation:
            case lines.Ask(_, call, server, max_wait, lot, number, first, kept):
                asked = False if first is None else first
                return call.lease, server, _bound(max_wait), lot, number, asked, kept
            case lines.Cancel(_, _, lot, number, start, untold):
                self._lot(lot)
                return lot, number, False if start is None else start, untold
            case lines.Renew(_, call, start):
                return call.lease, start

    def _call(self, call: Call) -> Sequence[Any]:
        which = [*map(self._rules, call.rules)]
        return call.name, [*call.path], which, _by_unit(call, call.costs)

    def _calls(self, calls: Calls) -> Sequence[Any]:
        """The fields that all calls share. Their costs follow as columns."""
        _, path, rules, costs, lease = calls
        return [*path], [*map(self._rules, rules)], _units(calls), len(costs[0]), lease

    def _extend(self, columns: Iterable[Sequence[float]]) -> None:
        for column in columns:
            self.columns.extend(column)

    def _rules(self, rules: Rules) -> int:
        """Which of the call's rules these are, counted from 1."""
        which = self._which.get(id(rules))
        if which is None:
            written = _written(Rules(tuple(rules.limits), *rules[1:]))
            if written not in self.rules:
                self.rules.append(written)
            which = self._which[id(rules)] = self.rules.index(written) + 1
        return which

    def _lot(self, lot: str) -> None:
        name = beside(self._key, self._prefix, "lot", lot)
        if name not in self.keys:
            self.keys.append(name)


@lru_cache(10_000)
def _written(rules: Rules) -> Sequence[Any]:
    """A digest of the rules, and what is in them."""
    limits = [(x.name, x.unit, x.amount, x.capacity, x.rate, x.most) for x in rules.limits]
    content = rules.weight, -1 if rules.slots == inf else rules.slots, limits
    digest = sha1(to_json(content).encode(), usedforsecurity=False).hexdigest()[:16]
    return digest, *content


def _bound(max_wait: float) -> float:
    return -1 if max_wait == inf else max_wait


def _by_unit(call: Call, costs: Sequence[Costs]) -> dict[str, float]:
    """Rules can change while a call waits; what it costs by unit does not."""
    return {
        limit.unit: cost
        for rules, row in zip(call.rules, costs, strict=True)
        for limit, cost in zip(rules.limits, row, strict=True)
    }


def _units(calls: Calls) -> list[str]:
    """Of all limits on their path, each once."""
    return [*dict.fromkeys(limit.unit for rules in calls.rules for limit in rules.limits)]


def _columns_by_unit(calls: Calls, costs: Sequence[Sequence[Costs]]) -> Iterable[Sequence[float]]:
    """In the order of the units."""
    columns: dict[str, Sequence[float]] = {}
    for rules, rows in zip(calls.rules, costs, strict=True):
        units = [limit.unit for limit in rules.limits]
        if not columns.keys() >= {*units}:
            columns |= zip(units, zip(*rows, strict=True), strict=True)
    return columns.values()


def _runs(names: Sequence[str]) -> list[str]:
    """Stems of names, each followed by the endings of those that have it, see names.lua."""
    return [*chain.from_iterable(by_stem(names))]
