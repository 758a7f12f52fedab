"""The keys of Redis, and the JSON and columns of numbers that scripts read. No I/O."""

import re
import sys
from array import array
from json import JSONEncoder

_TAG = re.compile(r"[^{]*\{[^}]+\}")

to_json = JSONEncoder(separators=(",", ":")).encode


def key_of(bucket: str, prefix: str) -> str:
    """The key of a bucket's hash."""
    key = f"{prefix}:{bucket}"
    # What is kept beside it has to share its hash slot, with braces of its own.
    return key if _TAG.match(key) else _without_braces(key)


def beside(key: str, prefix: str, what: str, name: str) -> str:
    """A key in the hash slot of a bucket's."""
    if _TAG.match(key):
        return f"{key}:{what}:{name}"
    return f"{_without_braces(prefix)}:{{{key}}}:{what}:{name}"


def _without_braces(text: str) -> str:
    return text.replace("{", "%7B").replace("}", "%7D")


def values_of(node: bytes) -> tuple[str, ...]:
    """Of the levels' labels, from the id of a node, see told.lua."""
    values = list[str]()
    while node:
        size, _, rest = node.partition(b":")
        values.append(rest[: int(size)].decode(errors="replace"))
        node = rest[int(size) :]
    return (*values,)


def to_bytes(columns: "array[float]") -> bytes:
    """As little-endian doubles; the array is not to be used again."""
    if sys.byteorder == "big":
        columns.byteswap()
    return columns.tobytes()
