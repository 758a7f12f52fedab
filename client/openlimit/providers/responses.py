"""Finds the usage, and errors, in the body of a response while the body passes by. Pure."""

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any

from openlimit.providers import PROVIDERS
from openlimit.providers.bodies import Texts, parsed, texts_of


def _places(attribute: str) -> list[list[str]]:
    told = (getattr(provider, attribute) for provider in PROVIDERS)
    return [place.split(".") for place in dict.fromkeys(chain(*told))]


_OPENINGS, _USAGES, _TOTALS = map(_places, ("opening", "usages", "totals"))
_OUTPUT = {name for provider in PROVIDERS for name in provider.usage.output}
_LAST_EVENTS = [each for provider in PROVIDERS for each in provider.last_events]
_NAMES = dict.fromkeys([*(place[-1] for place in [*_USAGES, *_TOTALS]), "error"])
_SIGNS = [rf'{name}"\s*:\s*+(?!null)' for name in _NAMES] + [r'type"\s*:\s*"error"']
_SIGNS += [f'{re.escape(each)}"' for each in _LAST_EVENTS]
_TELLING = re.compile(f'"(?:{"|".join(_SIGNS)})'.encode())


class BodyReader:
    """Reads a body piece by piece; ask for ``usage`` and ``error`` after the last one.

    ``decode`` undoes the encoding of all that has come; it yields pieces and may raise after any
    of them. None: the body is not encoded.
    """

    def __init__(self, decode: Callable[[bytes], Iterable[bytes]] | None = None) -> None:
        self._decode = decode
        self._head: list[bytes] = []  # what came before its kind was known, or encoded
        self._texts: Texts | None = None
        self._over = False
        self._opening: Mapping[str, Any] = {}
        self._usage: Mapping[str, Any] = {}
        self._last_seen = False
        self._error = ""

    def feed(self, data: bytes) -> None:
        """The next bytes."""
        if self._decode:
            self._head.append(data)
        else:
            self._read(data)

    def usage(self, *, ended: bool) -> Mapping[str, Any] | None:
        """What the call has used; None if that is not certain. ``ended``: the body was complete."""
        self._finish()
        is_certain = self._usage and (ended or self._last_seen)
        return _merged(self._opening, self._usage) if is_certain else None

    def error(self) -> str:
        """The error in the body, as JSON; empty if there is none."""
        self._finish()
        return self._error

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        if self._decode:
            body, self._head = b"".join(self._head), []
            with suppress(Exception):  # what came before the error counts
                for data in self._decode(body):
                    self._read(data)
        if self._texts:
            self._learn_from(self._texts.rest())

    def _read(self, data: bytes) -> None:
        if self._texts is None:
            self._head.append(data)
            data = b"".join(self._head)
            if not (texts := texts_of(data)):
                return
            self._texts, self._head = texts, []
            data = data.removeprefix(BOM_UTF8)
        self._learn_from(self._texts.feed(data))

    def _learn_from(self, texts: Iterable[bytes]) -> None:
        for text in texts:
            if text == b"[DONE]":
                self._last_seen = True
            # Most events are a few words of text and no usage. Quotes within text are escaped.
            elif _TELLING.search(text):
                event = parsed(text)
                # Gemini answers with a list of what would else be events.
                for each in event if isinstance(event, list) else [event]:
                    self._learn(_mapping(each))

    def _learn(self, event: Mapping[str, Any]) -> None:
        for place in _OPENINGS:
            opening = _at(event, place)
            told = {name: opening[name] for name in opening if name not in _OUTPUT}
            self._opening = _merged(self._opening, told)
        for place in _USAGES:
            self._usage = _merged(self._usage, _at(event, place))
        for place in _TOTALS:
            total = _at(event, place)
            self._usage = self._usage or total
            self._last_seen |= bool(total)
        error = event.get("error") or _at(event, ["response"]).get("error")
        if error or event.get("type") == "error":
            self._error = json.dumps(error or event)
        self._last_seen |= event.get("type") in _LAST_EVENTS


def _at(value: object, place: Iterable[str]) -> Mapping[str, Any]:
    for name in place:
        value = _mapping(value).get(name)
        if isinstance(value, list):
            value = value[0] if value else None
    return _mapping(value)


def _merged(known: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of several events together: counters only grow, so the larger one counts."""
    merged = dict(known)
    for name, value in told.items():
        before = merged.get(name)
        both = isinstance(before, int | float) and isinstance(value, int | float)
        if value is not None and not (both and value < before):
            merged[name] = value
    return merged


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
