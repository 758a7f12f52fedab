"""Reads YAML into texts, lists and mappings that know their lines; faults are in plain words.

All values stay texts, and the fields decide which are numbers or durations. So 010 is no octal
number, 2024-01-01 is no date, and a model may be called 4.10 or on.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ruamel.yaml import YAML, events
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from openlimit_server.config.notation import shown

_MAX_NESTING = 50  # far more than any field has
_TAG = "tag:yaml.org,2002:"
_EMPTY = ("", "~", "null")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}", re.ASCII)

# What ruamel calls a problem, and what it means to the author of the file.
_PLAIN = [
    (r"found character '\\t'", "has a tab: indent with spaces"),
    (r"found character '(.)'", "has a value that begins with {0}: put it in quotes"),
    (r"expected alphabetic", "has a value that begins with *, & or %: put it in quotes"),
    (r"mapping values are not", "has a colon where no value can begin: indent the fields of one "
     "policy alike, end each field's name with a colon, and put a text with a colon in quotes"),
    (r"document start", "has a value that begins with %: put it in quotes"),
    (r"expected <block end>", "is indented differently from the lines that it belongs to"),
    (r"expected ',' or '(.)'",
     "should go on with a comma, or end the bracket of line {line} with {0}"),
    (r"node content|end of stream", "ends too early: close the bracket or quote of line {line}"),
    (r"could not find expected ':'", "has no colon after the name of a field"),
    (r"sequence entries are not", "has an entry of a list (-) that must begin its own line"),
    (r"more indented", "is indented further than the first line of its text: indent both alike"),
    (r"unknown escape", "has a \\ in double quotes, where it is special: use single quotes"),
]  # fmt: skip


class NotYAML(Exception):
    """The data are not YAML that can be used. The message is the line (from 1) and the reason."""


class FilledIn(str):
    """A value that came, in part at least, from the environment, and nowhere from a default."""


class _Mapping(dict[str, Any]):
    lines: dict[str, int]


class _List(list[Any]):
    lines: dict[int, int]


def parse(data: bytes, environment: Mapping[str, str]) -> Any:
    """The document; its mappings and lists have ``lines``, by key or index. Raises NotYAML.

    In values, ${NAME} is what the environment has by this name, and ${NAME:-text} is the text where
    it has none or an empty one. An alias is the same object as its anchor, so a few lines of
    aliases take little memory.
    """
    try:
        text = data.decode()
        return _Reader(YAML(typ="safe", pure=True).parse(text), environment).document()
    except UnicodeDecodeError as error:
        line, byte = data.count(b"\n", 0, error.start) + 1, data[error.start]
        problem = f"has the byte {byte:#04x}, which is not UTF-8; save the file as UTF-8"
        raise NotYAML(f"{line}: {problem}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"has the character {error.character:#04x}, which YAML forbids"
        raise NotYAML(f"{line}: {problem}") from error
    except MarkedYAMLError as error:
        line = _line(error.problem_mark or error.context_mark)
        has_variable = any("${" in each for each in text.split("\n")[line - 1 : line])
        advice = "; within { } or [ ], put a value with ${…} in quotes" if has_variable else ""
        raise NotYAML(f"{line}: {_plain(error)}{advice}") from error


class _Reader:
    """Builds the document from the parser's events, in one pass."""

    def __init__(self, read: Iterator[Any], environment: Mapping[str, str]) -> None:
        self._events = read
        self._environment = environment
        self._anchors: dict[str, Any] = {}

    def document(self) -> Any:
        next(self._events)  # the stream starts
        if isinstance(next(self._events), events.StreamEndEvent):
            return None
        value = self._value(next(self._events))
        next(self._events)  # the document ends
        if not isinstance(event := next(self._events), events.StreamEndEvent):
            raise _fault(event, "begins a second document (---): a configuration is one")
        return value

    def _value(self, event: Any, depth: int = 0) -> Any:
        if isinstance(event, events.AliasEvent):
            if event.anchor not in self._anchors:
                quoted = f'"*{event.anchor}"'
                raise _fault(event, f"has a value that begins with *: put it in quotes, {quoted}")
            return self._anchors[event.anchor]
        is_text = isinstance(event, events.ScalarEvent)
        is_mapping = isinstance(event, events.MappingStartEvent)
        if event.tag and not (is_text and event.tag == f"{_TAG}str"):
            tag = shown(event.tag.replace(_TAG, "!!"))
            raise _fault(event, f"has the tag {tag}, which means nothing here: leave it out")
        if depth > _MAX_NESTING:
            raise _fault(event, "nested too deeply")
        if is_text:
            empty = event.implicit[0] and event.value in _EMPTY
            value: Any = None if empty else self._filled_in(event)
        else:
            value = _Mapping() if is_mapping else _List()
            value.lines = {}
        self._anchors[event.anchor] = value  # before it is filled, since it may hold itself
        if is_mapping:
            _fill(value, self._entries(depth + 1))
        elif not is_text:
            for i, (of_entry, entry) in enumerate(self._entries(depth + 1)):
                value.lines[i] = _line(of_entry.start_mark)
                value.append(entry)
        return value

    def _filled_in(self, event: Any) -> str:
        """A text, with the variables that it speaks of."""
        is_by_default = False

        def value(match: re.Match[str]) -> str:
            nonlocal is_by_default
            name, default = match["name"], match["default"]
            if found := self._environment.get(name):
                return found
            if default is None:
                state = "not set" if found is None else "empty"
                advice = f"set it, or give a default: ${{{name}:-…}}"
                raise _fault(event, f"speaks of the variable {name}, which is {state}: {advice}")
            is_by_default = True
            return str(default)

        filled, count = _VARIABLE.subn(value, event.value)
        return FilledIn(filled) if count and not is_by_default else filled

    def _entries(self, depth: int) -> Iterator[tuple[Any, Any]]:
        """Each entry of a list, or each key and then its value, with the event that began it."""
        while not isinstance(event := next(self._events), events.CollectionEndEvent):
            yield event, self._value(event, depth)


def _fill(mapping: _Mapping, entries: Iterator[tuple[Any, Any]]) -> None:
    taken_over: list[Any] = []
    for event, key in entries:
        if not isinstance(key, str):
            raise _fault(event, f"has {shown(key)} where the name of a field is expected")
        if key in mapping:
            raise _fault(event, f"has {shown(key)} a second time: keep one of them")
        of_value, value = next(entries)
        if key == "<<" and isinstance(event, events.ScalarEvent) and event.implicit[0]:
            taken_over += value if isinstance(value, _List) else [value]
            if not all(isinstance(each, _Mapping) for each in taken_over):
                raise _fault(of_value, "has << without a mapping that it takes over")
        else:
            mapping[key], mapping.lines[key] = value, _line(event.start_mark)
    for other in taken_over:
        for key, value in other.items():
            if key not in mapping:
                mapping[key], mapping.lines[key] = value, other.lines[key]


def _line(mark: Any) -> int:
    return int(mark.line) + 1


def _fault(event: Any, problem: str) -> NotYAML:
    return NotYAML(f"{_line(event.start_mark)}: {problem}")


def _plain(error: MarkedYAMLError) -> str:
    problem = str(error.problem or error.context)
    line = _line(error.context_mark or error.problem_mark)
    for pattern, words in _PLAIN:
        if match := re.search(pattern, problem, re.DOTALL):
            return words.format(*match.groups(), problem=problem, line=line)
    return f"is not YAML: {problem}"
