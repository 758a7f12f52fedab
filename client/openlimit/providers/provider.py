"""What the file of a provider says about it.

Proxies and imitators mix the interfaces of providers. So headers, usages and events are read by the
names of all providers at once; only a request is read by the rules of one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openlimit.providers.image_costs import Patches, Tiles

Params = Mapping[str, Any]


class Family(NamedTuple):
    """How models count beside their encoding, in tokens.

    The framing is that of OpenAI's cookbook, notebook "How to count tokens with tiktoken".
    """

    per_message: int = 3
    per_name: int = 1
    per_call: int = 3
    """Of a tool."""
    per_result: int = 0
    """Of such a call."""
    per_function: int = 7
    per_tools: int = 12
    """Once, if a call has tools."""
    image: Tiles | Patches = Tiles(85, 170)  # gpt-4o's
    per_second: int = 10
    """Of a recording."""
    text: Callable[[str, int], int] | None = None
    """Tokens of a text that has so many in the encoding; None: as many."""
    tool: Callable[[Mapping[Any, Any]], int] | None = None
    """What a tool costs beside its JSON; None: tools count as in the cookbook."""


class UsageNames(NamedTuple):
    """What the numbers of a usage are called; SDKs for Python may use another case."""

    prompt: tuple[str, ...] = ()
    """The input, including what was read from a cache and what was written to it."""
    input: tuple[str, ...] = ()
    """The input, without these if they have numbers of their own."""
    output: tuple[str, ...] = ()
    total: tuple[str, ...] = ()
    beside_prompt: tuple[str, ...] = ()
    beside_output: tuple[str, ...] = ()
    cache_reads: tuple[str, ...] = ()
    """Not charged: providers that have this number do not count it towards their limits."""
    cache_writes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What differs between providers. A place is written as names from the outside in, with dots
    between them; a list stands for its first item."""

    path: re.Pattern[str]
    """Matches the path of a call; may have the groups ``model`` and ``action``."""
    params: Callable[[Params, str], Params | None] | None = None
    """Translates parameters, for an action, into those that OpenAI or Anthropic take. None for
    what needs no translation; may raise TypeError, LookupError or AttributeError."""
    headers: str = ""
    """A pattern for the headers of its limits: ``{}`` is remaining or reset, the group the unit."""
    usage: UsageNames
    opening: tuple[str, ...] = ()
    """Places where the first event of a stream has the input's usage, with no output yet."""
    usages: tuple[str, ...] = ()
    """Places of the usage in a document or an event; events may repeat it in part."""
    totals: tuple[str, ...] = ()
    """Places where the last event has a usage that counts if there was no other."""
    last_events: tuple[str, ...] = ()
    """Types of the events after which no usage follows."""
    families: Mapping[str, Family] = field(default_factory=dict)
    """By patterns for the model's name in lower case, with spaces between them; the first that
    matches counts."""


def messages_of(
    messages: list[tuple[str, Any]], part: Callable[[Params], Params]
) -> dict[str, Any]:
    """The parameter ``messages`` for roles and their parts, each translated by `part`."""
    return {
        "messages": [
            {"role": role, "content": parts if isinstance(parts, str) else [*map(part, parts)]}
            for role, parts in messages
        ]
    }


def binary(kind: str, data: str) -> Params:
    """An image, a recording or a file in base64, as a part of a message."""
    if kind.startswith("image"):
        return {"type": "image_url", "image_url": {"url": f"data:image;base64,{data}"}}
    if kind.startswith("audio"):
        return {"type": "input_audio", "input_audio": {"data": data}}
    return {"type": "file", "file": {"file_data": data}}
