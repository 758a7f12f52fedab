"""Reads what a call has used from the usage that a provider's SDK gives.

Two rules hold for every provider. A missing number is not a zero: no call has an input of 0 unless
a cache was read, and a lone output of 0 is a placeholder. Where numbers contradict each other the
larger one counts, so that no call is charged less than it can cost.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from openlimit.errors import InvalidRequest, invalid, shown
from openlimit.providers import PROVIDERS
from openlimit.providers.provider import Names
from openlimit.units import MAX_AMOUNT, UNIT, whole_number

_OWN_NAMES = {"input_tokens", "output_tokens"}  # a provider's that are units too
_NAMES = Names(
    *(tuple(chain(*names)) for names in zip(*(each.usage for each in PROVIDERS), strict=True))
)
_INPUTS = {*_NAMES.prompt, *_NAMES.input}
_TELLING = {*_INPUTS, *_NAMES.output, *_NAMES.total}
_NUMBERS = dict.fromkeys(chain(*_NAMES))
_NOT_BY_UNIT = _NUMBERS.keys() - _OWN_NAMES | {"usage"}


def units_of(usage: object) -> dict[str, int]:
    """The costs by unit that a usage stands for: ``tokens``, ``input_tokens``, ``output_tokens``.

    `usage` is a usage object, or the same as a mapping: of OpenAI's endpoints, of providers that
    imitate these, of an Anthropic message, of Gemini (``usage_metadata``) or of Bedrock's Converse.
    Or it is numbers by unit, such as ``{"tokens": 12, "images": 2}``. The answer omits numbers that
    are missing or cannot be true, so it may be empty.

    Cache writes count as input. Cache reads that have a number of their own do not count, as in
    Anthropic's limits: https://docs.anthropic.com/en/api/rate-limits. What the total has beyond
    input and output counts as output: xAI and Gemini give reasoning so.

    Raises InvalidRequest for anything else, and for numbers that are negative or not whole.
    """
    if type(usage) is dict and usage.keys() == {"tokens"}:  # the usual one of those by unit
        return {"tokens": _whole("tokens", usage["tokens"])}
    if isinstance(usage, Mapping) and _is_by_unit(usage):
        units = {_unit(unit): _whole(unit, number) for unit, number in usage.items()}
        if units.keys() <= _OWN_NAMES:  # then a provider may have said so
            units = {unit: number for unit, number in units.items() if number}
        return _with_total(units)
    fields = _fields_of(usage)
    names = _NUMBERS.keys() & fields.keys() if type(fields) is dict else _NUMBERS
    said = {name: value for name in names if (value := _get(fields, name)) is not None}
    if not said.keys() & _TELLING:
        if _get(fields, "type") == "duration":  # OpenAI's for a recording: it has no tokens
            return {}
        found = shown(usage if isinstance(usage, int | float | str | dict) else type(usage))
        if _get(fields, "usage") is not None:
            found = "the whole response: pass its usage"
        raise InvalidRequest(
            "usage",
            "must be the usage of a response, or numbers by unit such as {'tokens': 12}, "
            f"not {found}",
        )
    numbers = {name: _whole(name, value) for name, value in said.items()}
    return _with_total(_of_provider(numbers, fields))


def _is_by_unit(usage: Mapping[Any, Any]) -> bool:
    """Anthropic's numbers have the names of units, but its usage is never numbers alone."""
    if not usage or usage.keys() & _NOT_BY_UNIT or usage.get("type") == "duration":
        return False
    tells_more = any(
        value is None or isinstance(value, str | Mapping | list) for value in usage.values()
    )
    return not (tells_more and usage.keys() & _OWN_NAMES)


def _of_provider(said: Mapping[str, int], usage: object) -> dict[str, int]:
    reads, writes = _largest(said, _NAMES.cache_reads), _largest(said, _NAMES.cache_writes)
    if isinstance(by_lifetime := _get(usage, "cache_creation"), Mapping):  # the same, in parts
        writes = max(writes, sum(map(_counted, by_lifetime.values())))
    prompt = _largest(said, _NAMES.prompt)
    if prompt < reads and prompt:  # the prompt excludes them, and so does the total
        reads = 0
    prompt = max(0, prompt - reads)
    beside_caches = _largest(said, _NAMES.input)
    if said.keys() & {*_NAMES.input}:
        beside_caches += writes
    spent = max(prompt, beside_caches) + _largest(said, _NAMES.beside_prompt)
    written, total = _largest(said, _NAMES.output), _largest(said, _NAMES.total)
    reasoning = _reasoning(usage)
    if reasoning > written:  # then it is not part of it
        written += reasoning
    written += _largest(said, _NAMES.beside_output)
    for each in _iterations(usage):
        spent, written = spent + each["input_tokens"], written + each["output_tokens"]
    units = {}
    if spent or (reads and said.keys() & _INPUTS):
        units["input_tokens"] = spent
        beyond = max(0, total - spent - reads - written)
        if _get(usage, "prompt_audio_seconds"):  # Mistral's recordings are beside its prompt
            units["input_tokens"] += beyond
        else:
            written += beyond
    elif total > written:
        units["tokens"] = total
    if written or (total and "input_tokens" in units):
        units["output_tokens"] = written
    return units


def _reasoning(usage: object) -> int:
    details = ("completion_tokens_details", "output_tokens_details")
    places = (usage, *(_get(usage, each) for each in details))
    return max(_counted(_get(place, "reasoning_tokens")) for place in places)


def _counted(number: object) -> int:
    return whole_number(number) or 0


def _iterations(usage: object) -> Iterable[Mapping[str, int]]:
    """Calls that Anthropic made in addition, for this one; only this list has their numbers."""
    entries = _get(usage, "iterations")
    for entry in entries if isinstance(entries, list) else ():
        if _get(entry, "type") == "compaction":
            said = {n: _whole(n, v) for n in _NUMBERS if (v := _get(entry, n)) is not None}
            yield dict.fromkeys(_OWN_NAMES, 0) | _of_provider(said, None)


def _largest(said: Mapping[str, int], names: Iterable[str]) -> int:
    return max(said.get(name, 0) for name in names)


def _with_total(units: dict[str, int]) -> dict[str, int]:
    if "tokens" not in units and units.keys() >= _OWN_NAMES:
        units["tokens"] = sum(units[name] for name in _OWN_NAMES)
    return units


def _fields_of(thing: Any) -> Any:
    """The SDKs' models as a dict: they take microseconds to say that they lack a field."""
    if hasattr(type(thing), "__pydantic_fields__"):
        return vars(thing) | (thing.__pydantic_extra__ or {})
    return thing


def _get(thing: Any, name: str) -> Any:
    if type(thing) is dict or isinstance(thing, Mapping):
        return thing.get(name)
    return getattr(thing, name, None)


def _unit(name: object) -> str:
    if not (isinstance(name, str) and UNIT.fullmatch(name)):
        raise InvalidRequest(
            f"usage[{name!r}]", "is neither a provider's nor a unit, such as tokens or images"
        )
    return name


def _whole(name: object, value: object) -> int:
    number = whole_number(value)
    if number is None or not 0 <= number <= MAX_AMOUNT:
        raise invalid(f"usage[{name!r}]", "a whole number, 0 or more, by unit", value)
    return number
