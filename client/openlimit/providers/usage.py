"""What a call has used, read from what the provider's SDK says about it.

Two rules hold for every provider. What is not told is not a zero: no call has an input of 0, unless
a cache was read, and a lone output of 0 is a placeholder. And where numbers contradict each other,
the larger counts, for a call must not be charged less than it can cost.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from openlimit.errors import InvalidRequest
from openlimit.tokens.counting import whole_number
from openlimit.units import UNIT

__all__ = ["units_of"]

_MOST = 2**63  # what the wire carries
_OWN_NAMES = {"input_tokens", "output_tokens"}
"""Anthropic's names and those of OpenAI's responses are those of units too."""

# What each provider calls it; Google's and AWS's SDKs for Python use their own cases.
_PROMPT = ("prompt_tokens", "promptTokenCount", "prompt_token_count")
"""The input, with what was read from a cache and what was written to it."""
_INPUT = ("input_tokens", "inputTokens", "inputTokenCount")
"""The input. Where caches are told beside it, without these."""
_BESIDE_PROMPT = ("toolUsePromptTokenCount", "tool_use_prompt_token_count")
_OUTPUT = (
    *("completion_tokens", "output_tokens", "outputTokens"),
    *("candidatesTokenCount", "candidates_token_count"),
    *("outputTokenCount", "generation_token_count"),
)
_BESIDE_OUTPUT = ("thoughtsTokenCount", "thoughts_token_count")
_TOTAL = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count")
_CACHE_WRITES = (
    *("cache_creation_input_tokens", "cacheWriteInputTokens", "cacheWriteInputTokenCount"),
)
_CACHE_READS = (*("cache_read_input_tokens", "cacheReadInputTokens", "cacheReadInputTokenCount"),)
_DETAILS = ("completion_tokens_details", "output_tokens_details")

_TELLING = {*_PROMPT, *_INPUT, *_OUTPUT, *_TOTAL}
_NUMBERS = (*_TELLING, *_BESIDE_PROMPT, *_BESIDE_OUTPUT, *_CACHE_WRITES, *_CACHE_READS)
_PROVIDERS_NAMES = {*_NUMBERS} - _OWN_NAMES


def units_of(usage: object) -> dict[str, int]:
    """The costs by unit that a usage stands for: ``tokens``, ``input_tokens``, ``output_tokens``.

    `usage` is the usage object of OpenAI's chat completions, completions, embeddings, responses,
    images or transcriptions, of those who imitate them, of an Anthropic message, of Gemini
    (``usage_metadata``) or of Bedrock's Converse, the same as a mapping, or numbers by unit, such
    as ``{"tokens": 12, "images": 2}``. What it does not tell, or what cannot be true, is absent
    from the answer, which may be empty.

    Cache writes count as input; cache reads do not where Anthropic's names tell them, for so it
    counts towards its limits, https://docs.anthropic.com/en/api/rate-limits. What the total has
    beyond input and output is output: reasoning, which xAI and Gemini tell beside it.

    Raises InvalidRequest for anything else: numbers that are negative or no whole numbers, an
    object or a mapping without any of these.
    """
    if type(usage) is dict and usage.keys() == {"tokens"}:  # the usual one of those by unit
        return {"tokens": _whole("tokens", usage["tokens"])}
    if isinstance(usage, Mapping) and _is_by_unit(usage):
        units = {_unit(unit): _whole(unit, number) for unit, number in usage.items()}
        if units.keys() <= _OWN_NAMES:  # then a provider may have said so
            units = {unit: number for unit, number in units.items() if number}
        return _with_total(units)
    said = {name: value for name in _NUMBERS if (value := _get(usage, name)) is not None}
    if not said.keys() & _TELLING:
        if _get(usage, "type") == "duration":  # OpenAI's, of a recording: it tells no tokens
            return {}
        raise InvalidRequest(
            "usage",
            "must be the usage of a response, or numbers by unit such as {'tokens': 12}, "
            f"not {usage if isinstance(usage, int | float | str | dict) else type(usage)!r}",
        )
    numbers = {name: _whole(name, value) for name, value in said.items()}
    return _with_total(_of_provider(numbers, usage))


def _is_by_unit(usage: Mapping[Any, Any]) -> bool:
    """Anthropic's numbers are called as units are, but it always tells more than numbers."""
    if not usage or usage.keys() & _PROVIDERS_NAMES or usage.get("type") == "duration":
        return False
    tells_more = any(
        value is None or isinstance(value, str | Mapping | list) for value in usage.values()
    )
    return not (tells_more and usage.keys() & _OWN_NAMES)


def _of_provider(said: Mapping[str, int], usage: object) -> dict[str, int]:
    reads, writes = _largest(said, _CACHE_READS), _largest(said, _CACHE_WRITES)
    if isinstance(by_lifetime := _get(usage, "cache_creation"), Mapping):  # the same, in parts
        writes = max(writes, sum(map(_counted, by_lifetime.values())))
    prompt = _largest(said, _PROMPT)
    if prompt < reads and prompt:  # it was told without them, and so is the total
        reads = 0
    prompt = max(0, prompt - reads)
    beside_caches = _largest(said, _INPUT) + writes if {*_INPUT} & said.keys() else 0
    spent = max(prompt, beside_caches) + _largest(said, _BESIDE_PROMPT)
    written, total = _largest(said, _OUTPUT), _largest(said, _TOTAL)
    reasoning = _reasoning(usage)
    if reasoning > written:  # then it is not part of it
        written += reasoning
    written += _largest(said, _BESIDE_OUTPUT)
    for each in _iterations(usage):
        spent, written = spent + each["input_tokens"], written + each["output_tokens"]
    units = {}
    if spent or (reads and said.keys() & {*_PROMPT, *_INPUT}):
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
    places = (usage, *(_get(usage, details) for details in _DETAILS))
    return max(_counted(_get(place, "reasoning_tokens")) for place in places)


def _counted(number: object) -> int:
    return whole_number(number) or 0


def _iterations(usage: object) -> Iterable[Mapping[str, int]]:
    """What Anthropic tells only here: of calls that it made for this one, beside this one."""
    entries = _get(usage, "iterations")
    for entry in entries if isinstance(entries, list) else ():
        if _get(entry, "type") == "compaction":
            said = {n: _whole(n, v) for n in _NUMBERS if (v := _get(entry, n)) is not None}
            yield dict.fromkeys(_OWN_NAMES, 0) | _of_provider(said, None)


def _largest(said: Mapping[str, int], names: Iterable[str]) -> int:
    return max(said.get(name, 0) for name in names)


def _with_total(units: dict[str, int]) -> dict[str, int]:
    if "tokens" not in units and all(name in units for name in _OWN_NAMES):
        units["tokens"] = sum(units[name] for name in _OWN_NAMES)
    return units


def _get(thing: object, name: str) -> Any:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _unit(name: object) -> str:
    if not (isinstance(name, str) and UNIT.fullmatch(name)):
        raise InvalidRequest(
            f"usage[{name!r}]", "is neither a provider's nor a unit, such as tokens or images"
        )
    return name


def _whole(name: object, value: object) -> int:
    number = whole_number(value)
    if number is None or not 0 <= number < _MOST:
        raise InvalidRequest(
            f"usage[{name!r}]", f"must be a whole number, 0 or more, by unit, not {value!r}"
        )
    return number
