"""What the file of a provider says about it.

Proxies and imitators mix the interfaces of providers. So headers, usages and events are read by the
names of all providers at once; only a request is read by the rules of one.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, prod
from typing import Any, NamedTuple

Params = Mapping[str, Any]
_LARGEST = (2048, 768)  # no other shape has more tiles
_PHOTO = 12_000  # patches of 32 pixels


@dataclass(frozen=True, slots=True)
class Tiles:
    """What an image costs: a base and an amount per tile of 512 pixels, after it fits into 2048 and
    768 pixels.

    Source: OpenAI, "Images and vision", calculating costs.
    """

    base: int
    per_tile: int

    def tokens(self, size: tuple[int, int] | None, detail: object = None) -> int:
        """Low detail costs the base alone, whatever the size."""
        if detail == "low":
            return self.base
        size = size or _LARGEST
        # Exactly: a side that comes out at a whole number of tiles must not take one more.
        scale = min(Fraction(2048, max(2048, *size)), Fraction(768, max(768, min(size))))
        return self.base + self.per_tile * prod(ceil(side * scale / 512) for side in size)


@dataclass(frozen=True, slots=True)
class Patches:
    """What an image costs: so much per square patch, up to a budget that larger images shrink to.

    Sources: OpenAI, "Images and vision" (patches of 32 pixels, 1536 at most, times a factor per
    model; for later models see openai.py); Anthropic, "Vision" (patches of 28 pixels, one
    token each).
    """

    side: int
    budget: int
    per_patch: float = 1.0
    original: float = 0
    """The budget in original detail, where the model has one; inf where nothing bounds it."""
    in_full: bool = False
    """Whether an image without a detail is shown in original detail."""

    def tokens(self, size: tuple[int, int] | None, detail: object = None) -> int:
        """Low detail costs the same as high. Where nothing bounds an image whose size is not known,
        it counts as a photo of twelve megapixels."""
        is_full = detail == "original" or (self.in_full and detail not in ("low", "high"))
        budget = max(self.budget, self.original if is_full else 0)
        patches = ceil(size[0] / self.side) * ceil(size[1] / self.side) if size else _PHOTO
        # Not for a rounding's sake one more.
        return ceil(round(min(budget, patches) * self.per_patch, 6))


class Family(NamedTuple):
    """How models count beside their encoding, in tokens.

    The framing is that of OpenAI's cookbook, notebook "How to count tokens with tiktoken".
    """

    per_message: int = 3
    per_name: int = 1
    per_call: int = 3  # of a tool
    per_result: int = 0  # of such a call
    per_function: int = 7
    per_tools: int = 12  # once, if there are any
    image: Tiles | Patches = Tiles(85, 170)  # gpt-4o's
    per_second: int = 10  # of a recording
    text: Callable[[str, int], int] | None = None
    """Tokens of a text that has so many in the encoding; None: as many."""
    tool: Callable[[Mapping[Any, Any]], int] | None = None
    """What a tool costs beside its JSON; None: tools count as in the cookbook."""


class Names(NamedTuple):
    """What the numbers of a usage are called; SDKs for Python may use another case."""

    prompt: tuple[str, ...] = ()  # the input, with what caches read and wrote
    input: tuple[str, ...] = ()  # the input, without these if they have numbers of their own
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
    usage: Names
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
    system: Any, messages: list[tuple[str, Any]], part: Callable[[Params], Params]
) -> dict[str, Any]:
    """The parameter ``messages`` for roles and their parts, each translated by `part`."""
    messages = [("system", system), *messages] if system else messages
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
