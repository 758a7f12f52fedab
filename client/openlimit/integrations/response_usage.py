"""Finds the usage in the body of a response while the body passes by. Pure."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

__all__ = ["UsageReader", "reader_of"]

_TELLING = re.compile(rb'"usage"\s*:\s*+(?!null)|"message_stop"')
_LAST_EVENTS = (
    "message_stop",
    "response.completed",
    "response.failed",
    "response.incomplete",
)


class UsageReader(Protocol):
    """Takes a body as it comes; knows its usage once the body has told it."""

    def feed(self, data: bytes) -> None:
        """The next bytes."""

    def usage(self, *, ended: bool) -> Mapping[str, Any] | None:
        """What the call has used; None while that is not sure. ``ended``: nothing else comes."""


def reader_of(
    content_type: str, decode: Callable[[bytes], bytes] | None = None
) -> UsageReader | None:
    """The reader of a body of this type; None for one that tells no usage.

    ``decode`` undoes the encoding of a whole body, None: it has none. Raises what that raises.
    """
    if "event-stream" in content_type:
        return None if decode else _OfEvents()
    return _OfDocument(decode) if "json" in content_type else None


class _OfDocument:
    """A JSON object. Its bytes are kept until its end, as its reader's own are."""

    def __init__(self, decode: Callable[[bytes], bytes] | None) -> None:
        self._pieces: list[bytes] = []
        self._decode = decode

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)

    def usage(self, *, ended: bool) -> Mapping[str, Any] | None:
        if not ended:
            return None
        body = b"".join(self._pieces)
        return _mapping(
            _mapping(_parsed(self._decode(body) if self._decode else body)).get("usage")
        )


class _OfEvents:
    """Server-sent events. Keeps no more than the line that is under way."""

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._opening: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] = {}
        self._last_seen = False

    def feed(self, data: bytes) -> None:
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._read(b"".join((*self._line, line)))
            self._line = []
        self._line.append(rest)

    def usage(self, *, ended: bool) -> Mapping[str, Any] | None:
        if not self._usage or not (ended or self._last_seen):
            return None
        return {**self._opening, **self._usage}

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self._last_seen = True
        # Most events are a few words of text and no usage. Quotes within text are escaped.
        elif _TELLING.search(data):
            self._learn(_mapping(_parsed(data)))

    def _learn(self, event: Mapping[str, Any]) -> None:
        # Anthropic opens with the input's usage and ends with the output's, which repeats only
        # some of it; OpenAI's chunks have it at the top, the events of its responses inside.
        self._opening = _mapping(_mapping(event.get("message")).get("usage")) or self._opening
        told = event.get("usage") or _mapping(event.get("response")).get("usage")
        if isinstance(told, Mapping):
            told = {name: value for name, value in told.items() if value is not None}
            self._usage = {**self._usage, **told}
        self._last_seen |= event.get("type") in _LAST_EVENTS


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
