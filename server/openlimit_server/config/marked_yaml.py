"""YAML to texts, lists and mappings that know their lines; what is wrong with it in plain words.

Values stay texts as they were written: which of them are numbers or durations, the fields know.
So 010 is no octal number, 2024-01-01 no date, and a model may be called 4.10 or on.
"""

import re
from collections.abc import Hashable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.scanner import RoundTripScanner, ScannerError
from ruamel.yaml.tag import Tag

from openlimit_server.config.notation import shown

_MAX_NESTING = 50  # far more than any field has
_TOO_DEEP = "nested too deeply"
_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {_TAG + kind for kind in ("str", "seq", "map", "null", "merge")}
_MEANINGS = {"": "null", "~": "null", "null": "null", "<<": "merge"}

# What ruamel calls a problem, and what it means to somebody who wrote the file.
_PLAIN = [
    (r"found character '\\t'", "has a tab: indent with spaces"),
    (r"found character '(.)'", "has a value that begins with {0}: put it in quotes"),
    (r"found undefined alias '(.*)'", 'has a value that begins with *: put it in quotes, "*{0}"'),
    (r"expected alphabetic", "has a value that begins with *, & or %: put it in quotes"),
    (r"mapping values are not", "has a colon where no value can begin: indent the fields of one "
     "policy alike, end each field's name with a colon, and put a text with a colon in quotes"),
    (r"document start", "has a value that begins with %: put it in quotes"),
    (r"for merging", "has << without a mapping that it takes over"),
    (r"expected <block end>", "is indented differently from the lines that it belongs to"),
    (r"expected ',' or '(.)'",
     "should go on with a comma, or end the bracket of line {line} with {0}"),
    (r"node content|end of stream", "ends too early: close the bracket or quote of line {line}"),
    (r"could not find expected ':'", "has no colon after the name of a field"),
    (r"another document", "begins a second document (---): a configuration is one"),
    (r"sequence entries are not", "has an entry of a list (-) that must begin its own line"),
    (r"unknown escape", "has a \\ in double quotes, where it is special: use single quotes"),
    (r"duplicate key (.*)", "has {0} a second time: keep one of them"),
    (r"^(?:has|is) .*|" + _TOO_DEEP, "{problem}"),
]  # fmt: skip


class NotYAML(Exception):
    """The text is no YAML that can be used; the message says why."""

    def __init__(self, line: int | None, reason: str) -> None:
        super().__init__(reason)
        self.line = line
        """From 1; None where it is not known."""


class _Scanner(RoundTripScanner):
    def fetch_flow_collection_start(self, *arguments: Any, **named: Any) -> None:
        if len(self.flow_context) >= _MAX_NESTING:  # ruamel's time grows with the square of it
            raise ScannerError(None, None, _TOO_DEEP, self.reader.get_mark())
        super().fetch_flow_collection_start(*arguments, **named)


class _Resolver(VersionedResolver):
    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return Tag(suffix=_TAG + _MEANINGS.get(value, "str"))
        return super().resolve(kind, value, implicit)


class _Constructor(RoundTripConstructor):
    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _KNOWN_TAGS:
            name = str(node.tag).replace(_TAG, "!!")
            problem = f"has the tag {shown(name)}, which means nothing here: leave it out"
            raise ConstructorError(None, None, problem, node.start_mark)
        return super().construct_object(node, deep)

    def check_mapping_key(
        self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any
    ) -> bool:
        if not isinstance(key, str):
            problem = f"has {shown(key)} where the name of a field is expected"
            raise ConstructorError(None, None, problem, key_node.start_mark)
        if isinstance(key, Hashable) and key in mapping:  # ruamel's message spells out both values
            problem = f"duplicate key {shown(key)}"
            raise DuplicateKeyError(None, None, problem, key_node.start_mark)
        return True


def parse(text: str) -> Any:
    """The document; its mappings and lists have ``lc``. Raises NotYAML."""
    yaml = YAML(pure=True)
    yaml.Scanner, yaml.Resolver, yaml.Constructor = _Scanner, _Resolver, _Constructor
    yaml.composer.warn_double_anchors = False  # YAML allows them
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise NotYAML(line, _plain(error)) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise NotYAML(
            line, f"has the character {error.character:#04x}, which YAML forbids"
        ) from error
    except RecursionError as error:
        raise NotYAML(None, _TOO_DEEP) from error
    except YAMLError as error:
        raise NotYAML(None, f"is not YAML: {error}") from error


def _plain(error: MarkedYAMLError) -> str:
    problem = str(error.problem)
    began = error.context_mark or error.problem_mark
    line = began.line + 1 if began else 1
    for pattern, words in _PLAIN:
        if match := re.search(pattern, problem, re.DOTALL):
            return words.format(*match.groups(), problem=problem, line=line)
    return f"is not YAML: {problem}"
