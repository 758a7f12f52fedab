"""What the server and a process that counts send each other: values, after their length."""

import pickle
from struct import Struct
from typing import Any

LENGTH = Struct("!I")


def framed(value: object) -> bytes:
    """A value with its length before it."""
    data = pickle.dumps(value)
    return LENGTH.pack(len(data)) + data


def value_of(data: bytes) -> Any:
    """What was framed. Only for bytes of one's own processes."""
    return pickle.loads(data)
