"""What a call has used, read from what the provider's SDK says about it."""

from collections.abc import Mapping
from typing import Any

from openlimit.errors import InvalidRequest
from openlimit.token_counting import whole_number

__all__ = ["units_of"]

_MOST = 2**63  # what the wire carries
_OWN_NAMES = ("input_tokens", "output_tokens")
_PROVIDERS_NAMES = ("prompt_tokens", "completion_tokens", "total_tokens")
_CACHED = ("cache_creation_input_tokens", "cache_read_input_tokens")
_NAMES = (*_OWN_NAMES, *_PROVIDERS_NAMES, *_CACHED)


def units_of(usage: object) -> dict[str, int]:
    """The costs by unit that a usage stands for: ``tokens``, ``input_tokens``, ``output_tokens``.

    `usage` is the usage object of OpenAI's chat completions, completions, embeddings or responses
    or of an Anthropic message, the same as a mapping, or numbers by unit, such as
    ``{"tokens": 12, "images": 2}``. A unit that it does not tell is absent from the answer;
    ``tokens`` is the provider's total, or else the sum of input and output.

    Anthropic's cache writes count as input, its cache reads do not: that is how it counts towards
    its limits, https://docs.anthropic.com/en/api/rate-limits. LiteLLM's usage, which has both in
    its ``prompt_tokens``, is read alike.

    Raises InvalidRequest for anything else: numbers that are negative or no whole numbers, an
    object or a mapping without any of these.
    """
    if isinstance(usage, Mapping):
        if _is_by_unit(usage):
            return _with_total({unit: _whole(unit, number) for unit, number in usage.items()})
        said = {name: usage[name] for name in _NAMES if usage.get(name) is not None}
    else:
        values = ((name, getattr(usage, name, None)) for name in _NAMES)
        said = {name: value for name, value in values if value is not None}
    if not said.keys() - {*_CACHED}:
        raise InvalidRequest(
            "usage",
            "must be the usage of a response, or numbers by unit such as {'tokens': 12}, "
            f"not {usage if isinstance(usage, int | float | str | dict) else type(usage)!r}",
        )
    return _of_provider({name: _whole(name, value) for name, value in said.items()})


def _is_by_unit(usage: Mapping[Any, Any]) -> bool:
    """Anthropic's numbers are called as units are, but it always tells more than numbers."""
    if not usage or any(name in usage for name in (*_PROVIDERS_NAMES, *_CACHED)):
        return False
    tells_more = any(value is None or isinstance(value, str | Mapping) for value in usage.values())
    return not (tells_more and any(name in usage for name in _OWN_NAMES))


def _of_provider(said: Mapping[str, int]) -> dict[str, int]:
    units = {name: said[name] for name in _OWN_NAMES if name in said}
    total = said.get("total_tokens")
    if "prompt_tokens" in said:
        reads = said.get("cache_read_input_tokens", 0)
        units["input_tokens"] = max(0, said["prompt_tokens"] - reads)
        total = total and max(0, total - reads)
    elif "input_tokens" in said:
        units["input_tokens"] += said.get("cache_creation_input_tokens", 0)
    if "completion_tokens" in said:
        units["output_tokens"] = said["completion_tokens"]
    if total is not None:
        units["tokens"] = total
        if "input_tokens" in units:  # an embedding's output is not told
            units.setdefault("output_tokens", max(0, total - units["input_tokens"]))
    return _with_total(units)


def _with_total(units: dict[str, int]) -> dict[str, int]:
    if "tokens" not in units and all(name in units for name in _OWN_NAMES):
        units["tokens"] = sum(units[name] for name in _OWN_NAMES)
    return units


def _whole(name: object, value: object) -> int:
    number = whole_number(value)
    if not (isinstance(name, str) and name and number is not None and 0 <= number < _MOST):
        raise InvalidRequest(
            f"usage[{name!r}]", f"must be a whole number, 0 or more, by unit, not {value!r}"
        )
    return number
