"""Looks and notes as scripts read them, and their replies to answers. No I/O."""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from openlimit.stores.redis.keys import beside, to_json, values_of
from openlimit.stores.redis.lua import FIND, LOOK, NOTES
from openlimit.stores.views import (
    MOST_KEYS,
    Answer,
    Board,
    Find,
    Found,
    Look,
    NodeSeen,
    Notes,
    Operation,
    Seen,
)

KINDS = frozenset(get_args(Operation))
SCRIPTS = {Look: LOOK, Find: FIND, Notes: NOTES}


def encode(key: str, prefix: str, clock: float | None, operations: Sequence[Any]) -> Sequence[Any]:
    """The number of the keys, the keys, and the JSON, of operations of one kind and
    bucket; of Find, one alone."""
    match operations[0]:
        case Find(policies, most):
            content = {"begin": f"{prefix}:", "policies": [*policies], "keys": MOST_KEYS}
            content["most"] = most
            return 0, to_json(content)
        case Notes():
            notes = [each[:3] for each in operations]
            return 1, key, to_json({"clock": clock, "notes": notes})
    looks: Any = [(False if path is None else _ids(path), most) for _, path, most in operations]
    content = {"clock": clock, "keys": MOST_KEYS, "looks": looks}
    return 2, key, beside(key, prefix, "line", "tree"), to_json(content)


def _ids(path: Sequence[str]) -> list[str]:
    """Of the nodes on a path below the root, see told.lua."""
    ids, above = list[str](), ""
    for value in path:
        above += f"{len(value.encode())}:{value}"
        ids.append(above)
    return ids


def decode(operations: Sequence[Any], reply: Sequence[Any], prefix: str) -> list[Answer]:
    """The answer to each."""
    match operations[0]:
        case Find():
            rest = iter(reply[1:])
            kept = {
                _text(name).removeprefix(f"{prefix}:"): milliseconds * 1000.0
                for name, milliseconds in zip(rest, rest, strict=True)
            }
            return [Found(kept, bool(reply[0]))]
        case Notes():
            now, rest = float(reply[0]), iter(reply[1:])
            notes = {
                _text(name): (_text(text), float(until))
                for name, until, text in zip(rest, rest, rest, strict=True)
            }
            return [Board(now, notes)] * len(operations)
    rest = iter(reply)
    now = float(next(rest))
    return [_seen(now, rest) for _ in operations]


def _seen(now: float, reply: Iterator[Any]) -> Seen:
    count, is_whole = next(reply), next(reply)
    return Seen(now, [_node(reply) for _ in range(count)], bool(is_whole))


def _node(reply: Iterator[Any]) -> NodeSeen:
    path = values_of(next(reply))
    at, unit, paused = float(next(reply)), _text(next(reply)), float(next(reply))
    running, waiting = next(reply), next(reply)
    held_until, held_by = float(next(reply)), _text(next(reply))
    pace, share, weights = (float(next(reply)) for _ in range(3))
    levels = {_text(next(reply)): float(next(reply)) for _ in range(next(reply))}
    return NodeSeen(
        *(path, at, unit, levels, paused, running, waiting, held_until, held_by),
        *(pace, share, weights),
    )


def _text(reply: bytes) -> str:
    return reply.decode(errors="replace")
