"""Counts what a chat call costs, from the JSON body that the provider received.

It follows the published rules only, so that it can disagree with ``openlimit.tokens.counting``. The
rules for messages and tools are from OpenAI's cookbook, "How to count tokens with tiktoken". The
rules for images are from OpenAI's guide "Images and vision", section "Calculating costs". It knows
gpt-4o and gpt-4o-mini.

The rules leave some cases open. Here, a tool call counts 3 plus the text of its name and arguments.
Names of types, ids and image details do not count. A call without a maximum counts 15 output
tokens.
"""

from binascii import a2b_base64
from collections.abc import Mapping
from functools import cache
from math import ceil
from typing import Any, NamedTuple

import tiktoken

# Only the vocabulary comes from openlimit, which finds it without a network. The name is private,
# because only this demo needs the bare encoding.
from openlimit.tokens.encodings import _local_encoding

_IMAGE_COSTS = {"gpt-4o": (85, 170), "gpt-4o-mini": (2833, 5667)}  # the base, and each tile

Json = Mapping[str, Any]


class Usage(NamedTuple):
    """What a call is charged, in tokens."""

    prompt: int
    output: int
    """The most that the call may write, for all choices together."""


class UnknownContent(ValueError):
    """These rules have no price for a part of a message."""


@cache
def _encoding(name: str) -> tiktoken.Encoding:
    return _local_encoding(name) or tiktoken.get_encoding(name)


class Counter:
    """Counts in the encoding of gpt-4o. The first one of a process loads it in about 0.3 s."""

    def __init__(self) -> None:
        self._encoding = _encoding("o200k_base")

    def text(self, text: str) -> int:
        """Tokens of a text; special tokens count as plain text."""
        return len(self._encoding.encode(text, disallowed_special=()))

    def usage(self, body: Json) -> Usage:
        """The cost of a call with this body; raises UnknownContent if a part has no price."""
        prompt = 3 + sum(self._message(body["model"], message) for message in body["messages"])
        most = body.get("max_completion_tokens") or body.get("max_tokens") or 15
        return Usage(prompt + self._tools(body.get("tools", [])), most * body.get("n", 1))

    def _message(self, model: str, message: Json) -> int:
        tokens = 3 + self.text(message["role"]) + self._content(model, message.get("content"))
        if "name" in message:
            tokens += 1 + self.text(message["name"])
        for call in message.get("tool_calls", []):
            function = call["function"]
            tokens += 3 + self.text(function["name"]) + self.text(function["arguments"])
        return tokens

    def _content(self, model: str, content: str | list[Json] | None) -> int:
        if content is None:
            return 0
        if isinstance(content, str):
            return self.text(content)
        return sum(self._part(model, part) for part in content)

    def _part(self, model: str, part: Json) -> int:
        match part:
            case {"type": "text", "text": str(text)}:
                return self.text(text)
            case {"type": "image_url", "image_url": {"detail": "low"}}:
                return _IMAGE_COSTS[model][0]
            case {"type": "image_url", "image_url": {"url": str(url)}}:
                return _image(model, url)
        raise UnknownContent(f"no price for a part of type {part.get('type')!r}")

    def _tools(self, tools: list[Json]) -> int:
        return sum(self._function(tool["function"]) for tool in tools) + (12 if tools else 0)

    def _function(self, function: Json) -> int:
        tokens = 7 + self.text(f"{function['name']}:{_unended(function['description'])}")
        properties = function["parameters"]["properties"]
        if properties:
            tokens += 3
        for name, schema in properties.items():
            tokens += 3
            tokens += self.text(f"{name}:{schema['type']}:{_unended(schema['description'])}")
            if "enum" in schema:
                tokens += -3 + sum(3 + self.text(item) for item in schema["enum"])
        return tokens


def _unended(description: str) -> str:
    return description[:-1] if description.endswith(".") else description


def _image(model: str, url: str) -> int:
    base, tile = _IMAGE_COSTS[model]
    width, height = _png_size(url)
    if max(width, height) > 2048:
        width, height = (side * 2048 / max(width, height) for side in (width, height))
    if min(width, height) > 768:
        width, height = (side * 768 / min(width, height) for side in (width, height))
    return base + tile * ceil(width / 512) * ceil(height / 512)


def _png_size(url: str) -> tuple[float, float]:
    head, _, data = url.partition(",")
    if head != "data:image/png;base64":
        raise UnknownContent("only PNG images in data URLs have a price here")
    png = a2b_base64(data)
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
