"""What is wrong with the settings, for operators: where, what was expected and what came."""

import re
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from openlimit_server.config import spelling
from openlimit_server.config.notation import shown

Location = tuple[int | str, ...]
Faults = Collection[ErrorDetails]
Fields = Callable[[Location], Collection[str]]  # the known ones where the last one stands

# By field; with [] for an entry of its list.
_EXPECTED = {
    "policies": "a list of policies, each of which begins with - name:",
    "policies[]": "a policy with its fields name, models and limits",
    "name": "a name of 1 to 64 letters, digits and . _ - that begins with a letter or a digit",
    "models": 'a list of models such as ["gpt-4o", "gpt-4o-*"]',
    "models[]": 'a model or a pattern such as "gpt-4o-*"',
    "limits": "limits by their units, such as {requests: 3500/minute, tokens: 90000/minute}",
    "split_by": "a list of what has a bucket of its own: [model], [key] or [model, key]",
    "split_by[]": "model, key or a label such as team",
    "match": "labels that calls must have, such as {team: search}",
    "levels": "a list of levels, each of which begins with - label:",
    "levels[]": "a level with its label, such as {label: team, weights: {search: 4}}",
    "label": "a label such as team",
    "weights": "weights by the label's values, such as {search: 4, batch: 0.2}",
    "overrides[]": "limits, concurrent or both, such as {concurrent: 20}",
    "overrides": "what differs for values of the label, such as {batch: {concurrent: 20}}",
    "domains": "a list of domains, each of which begins with - domain:",
    "domains[]": "a domain with its descriptors",
    "domain": "a domain's name, such as edge",
    "descriptors": "a list of descriptors, each of which begins with - key:",
    "descriptors[]": "a descriptor with its key, such as {key: user, limit: 20/minute}",
    "key": "a descriptor's key, such as user",
    "value": "a value such as free, or one that ends in * for all that begin so",
    "rate_limit": "a limit such as {unit: minute, requests_per_unit: 20}",
    "replaces": "names of other limits, such as [{name: general}]",
    "replaces[]": "the name of another limit, such as {name: general}",
    "policy": "a policy's name and unit, such as {name: openai, unit: tokens}",
    "unit": "a unit such as tokens",
    "keys": "a list of keys, each of which begins with - name:",
    "keys[]": "a key with its fields name, hash, labels and may",
    "labels": "labels with their values, such as {team: search}",
    "may": "a list of what the key may do, such as [acquire, penalize]",
    "config": "the name of a YAML file",
    "audit_log": "the name of a file",
    "connections_per_address": "a whole number from 0 to 1000000",
    "grace": "a number of seconds from 0 to 3600",
    "drain_delay": "a number of seconds from 0 to 3600",
    "check": "true or false",
    "log_format": "console or json",
    "print_schema": "true or false",
    "new_key": "true or false",
}
_ARGPARSE = [
    (r"unrecognized arguments: (\S+)", "{0}: there is no such option; {hint}"),
    (r"argument (\S+): expected one argument", "{0}: needs a value"),
    (r"argument (\S+): ignored explicit argument (.*)", "{0}: takes no value, not {1}"),
]


class ConfigurationError(Exception):
    """The settings cannot be used; the message has a line for each fault."""


def of_file(
    path: str,
    faults: Faults,
    document: Any,
    kind: type[BaseModel],
    show: Callable[[object], str],
) -> ConfigurationError:
    """A line for each fault of a document that should be of a ``kind``; ``show`` says what it says
    of a value."""
    return _lines(faults, lambda loc: _place(path, loc, document), partial(_fields_at, kind), show)


def of_options(command: str, faults: Faults, arguments: Iterable[str]) -> ConfigurationError:
    """A line for each fault of options from the arguments, or else from the environment."""
    given = {argument.partition("=")[0] for argument in arguments}

    def source(loc: Location) -> str:
        option = f"--{loc[0]}".replace("_", "-")
        return f"{command}: {option if option in given else f'OPENLIMIT_{loc[0]}'.upper()}"

    return _lines(faults, source, lambda _: (), shown)


def of_arguments(command: str, said: str, options: Iterable[str]) -> ConfigurationError:
    """The fault of arguments that argparse could not take apart, from its message."""
    for pattern, words in _ARGPARSE:
        if match := re.search(pattern, said):
            name = match[1].removeprefix("--")
            known = [each.replace("_", "-") for each in options]
            closest = spelling.closest(name, known) if name != match[1] else None
            hint = f"write --{closest}" if closest else f"{command} --help lists the options"
            said = words.format(*match.groups(), hint=hint)
            break
    return ConfigurationError(f"{command}: {said}")


def first(faults: Faults) -> tuple[str, str]:
    """The field of a request, and what is wrong with it."""
    fault = next(iter(faults))
    field = ".".join(str(part) for part in fault["loc"] if part != "[key]")
    return field, _wrong(fault, lambda _: (), shown)


def _fields_at(kind: type[BaseModel], location: Location) -> Collection[str]:
    """The fields that may stand where the last one of the location does."""
    for part in location[:-1]:
        if field := kind.model_fields.get(str(part)):
            kind = _settings_in(field.annotation) or kind
    return kind.model_fields


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """Those that a field of this type holds: by themselves, or in a list or a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_settings_in, get_args(annotation))), None)


def _place(path: str, loc: Location, document: Any) -> str:
    """``path:line: field``; the line is that of the innermost part which the document has."""
    line, field = "", ""
    for part in loc:
        if part == "[key]":
            continue
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
        try:
            line = f":{document.lines[part]}"
            document = document[part]
        except (AttributeError, LookupError, TypeError):
            document = None
    return f"{path}{line}: {field}"


def _lines(
    faults: Faults, source: Callable[[Location], str], fields: Fields, show: Callable[[object], str]
) -> ConfigurationError:
    # pydantic also reports a list as too short when an entry of it is wrong.
    outer = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    told = (fault for fault in faults if fault["loc"] not in outer)
    lines = (f"{source(each['loc'])}: {_wrong(each, fields, show)}" for each in told)
    return ConfigurationError("\n".join(lines))


def _wrong(fault: ErrorDetails, fields: Fields, show: Callable[[object], str]) -> str:
    if fault["type"] == "extra_forbidden":
        return _unknown(fault["loc"], fields)
    if fault["type"] == "missing":
        return f"is required: {_EXPECTED[str(fault['loc'][-1])]}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    *outer, last = fault["loc"]
    is_entry = isinstance(last, int) or "overrides" in outer[-1:]
    field = f"{outer[-1]}[]" if is_entry else str(last)
    words = re.findall(r"\w+(?=')", fault.get("ctx", {}).get("expected", ""))  # of a Literal
    expected, came = " or ".join(words) or _EXPECTED[field], fault["input"]
    if fault["type"] == "too_short" and not came:
        return f"needs at least one entry: expected {expected}"
    guess = ""
    if isinstance(came, str):
        several = [each.strip() for each in came.split(",") if each.strip()]
        if field == "models" and several:
            guess = "[" + ", ".join(f'"{shown(each)[1:-1]}"' for each in several) + "]"
        elif field == "split_by" and several and {*several} <= {"model", "key"}:
            guess = f"[{', '.join(several)}]"
        else:
            guess = spelling.closest(came, words) or ""
    return f"expected {expected}, not {show(came)}" + (f"; write {guess}" if guess else "")


def _unknown(loc: Location, fields: Fields) -> str:
    """For an unknown field, what may have been meant."""
    name, known, is_of_domains = str(loc[-1]), fields(loc), loc[0] == "domains"
    for entries, one in (("policies", "policy"), ("keys", "key")):
        if not is_of_domains and entries in fields((name,)) and name in fields((entries, 0, name)):
            where = f"indent it below {entries}:, where each begins with - name:"
            return f"is a field of a {one}: {where}"
    if closest := spelling.closest(name.replace("-", "_"), known):
        return f"is not a field that openlimit knows; write {closest}"
    if not is_of_domains and spelling.nearest_unit(name):
        return "is not a field that openlimit knows; a limit's unit belongs below limits:"
    listed = ", ".join(known)
    return f"is not a field that openlimit knows; check its spelling: there are {listed}"
