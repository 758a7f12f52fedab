"""The tokens of what a model is shown: messages, their parts, tools, schemas.

The framing of messages and tools follows OpenAI's cookbook, notebook "How to count tokens with
tiktoken", which is exact for plain messages and flat tools. Everything else is an estimate that
errs high: a schema beyond the flat ones counts as the JSON it is sent as, a tool call is framed
like a message, and an audio recording or a file is guessed from its size.
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex, TypeGuard

from openlimit.encodings import base_model, count_text, encoding_name
from openlimit.errors import InvalidRequest
from openlimit.image_tokens import ImageCost, Patches, Tiles, image_size

__all__ = ["PromptCounter", "is_list", "plain"]

_REPLY_PRIMING = 3  # every reply is begun for the model
_TOOLS_END = 12
_PROPERTIES_START = 3
_PER_PROPERTY = 3
_ENUM_START = -3
_PER_ENUM_ITEM = 3

# What cannot be counted without being opened or fetched is guessed from its size.
_AUDIO_BYTES_PER_TOKEN = 800  # 10 tokens a second, of a recording with 8 kB a second
_FILE_BYTES_PER_TOKEN = 40  # a scanned page of 100 kB, shown both as text and as an image
_PAGE = 2500  # that page; no file counts as less
_SEALED_BYTES_PER_TOKEN = 4  # text that the provider handed out encrypted

# Sent along, but not shown to the model.
_NOT_SHOWN = (
    {"type", "id", "status", "detail", "call_id", "tool_call_id", "tool_use_id"}
    | {"annotations", "cache_control", "citations", "logprobs", "signature"}
    | {"parsed", "parsed_arguments"}  # what an SDK adds to a message
)
_SHOWN_AS_JSON = {"action", "arguments", "input"}
_BINARY = {"b64_json", "data", "file_data", "result"}

# Of a tool, a schema and a property: what the cookbook's formula covers or is not shown.
_TOOL = {"type", "name", "description", "parameters", "input_schema", "strict", "cache_control"}
_SCHEMA = {"type", "properties", "required", "additionalProperties", "$schema", "title"}
_PROPERTY = {"type", "description", "enum", "title"}

_GPT_4O_IMAGE = Tiles(85, 170)


@dataclass(frozen=True, slots=True)
class _Family:
    """What differs between models beside the encoding, in tokens."""

    per_message: int = 3
    per_name: int = 1
    per_function: int = 7
    image: ImageCost = _GPT_4O_IMAGE


# The first pattern that the model's name matches; the last matches all.
_FAMILIES = {
    "gpt-3.5-turbo-0301*": _Family(per_message=4, per_name=-1, per_function=10),
    "gpt-3*": _Family(per_function=10),
    "gpt-4o-mini*": _Family(image=Tiles(2833, 5667)),
    "gpt-4.1-mini*": _Family(image=Patches(32, 1536, 1.62)),
    "gpt-4.1-nano*": _Family(image=Patches(32, 1536, 2.46)),
    "gpt-4[o.]*": _Family(),
    "gpt-4*": _Family(per_function=10),
    "gpt-5*-mini*": _Family(image=Patches(32, 1536, 1.62)),
    "gpt-5*-nano*": _Family(image=Patches(32, 1536, 2.46)),
    "gpt-5*": _Family(image=Tiles(70, 140)),
    "o[13]*": _Family(image=Tiles(75, 150)),
    "o4-mini*": _Family(image=Patches(32, 1536, 1.72)),
    "*claude*": _Family(image=Patches(28, 4784)),  # the largest budget among its models
    "*": _Family(),
}


@functools.lru_cache(maxsize=256)
def _family(model: str) -> _Family:
    return next(family for pattern, family in _FAMILIES.items() if fnmatchcase(model, pattern))


class PromptCounter:
    """Counts the tokens of anything a call shows to `model`; it holds no state of its own."""

    __slots__ = ("_encoding", "_family")

    def __init__(self, model: object) -> None:
        name = base_model(model)
        self._encoding = encoding_name(name)
        self._family = _family(name)

    def text(self, value: object) -> int:
        """A text, or any other value written as JSON."""
        return count_text(value if isinstance(value, str) else _json(value), self._encoding)

    def texts(self, value: object) -> int:
        """What completions and embeddings take: a text, token ids, or a list of either."""
        if isinstance(value, str):
            return self.text(value)
        if not is_list(value):
            return self.content(value)
        return sum(1 if isinstance(item, SupportsIndex) else self.texts(item) for item in value)

    def conversation(self, messages: Sequence[object]) -> int:
        """Messages or items, and the beginning of the reply."""
        return _REPLY_PRIMING + sum(map(self.message, messages))

    def message(self, message: object) -> int:
        """One message or item, with its framing and that of its tool calls."""
        message = plain(message)
        tokens = self._family.per_message + self.content(message)
        if isinstance(message, Mapping):
            if "role" in message and isinstance(message.get("name"), str):
                tokens += self._family.per_name
            if is_list(calls := message.get("tool_calls")):
                tokens += self._family.per_message * len(calls)
        return tokens

    def content(self, content: object) -> int:
        """The content of a message: a text, a part, a list of them, nothing, or odder things."""
        if isinstance(content, str):
            return self.text(content)
        if is_list(content):
            return sum(map(self.content, content))
        part = plain(content)
        if isinstance(part, Mapping):
            return self._part(part)
        if isinstance(part, Iterable):  # bytes too: they would count as nothing
            kind = type(part).__name__
            raise InvalidRequest("params", f"a {kind} has no count; pass a text or a list instead")
        return 0

    def _part(self, part: Mapping[Any, Any]) -> int:
        match part.get("type"):
            case "image_url" | "input_image" | "image" | "computer_screenshot":
                return self._image(part, part.get("image_url") or part.get("source"))
            case "image_generation_call":
                return self._image(part, part.get("result"))
            case "file" | "input_file" | "document":
                return self._file(part, part.get("file") or part.get("source") or part)
        return sum(self._field(name, value) for name, value in part.items())

    def _field(self, name: object, value: object) -> int:
        if name in _NOT_SHOWN:
            return 0
        if name in {"audio", "input_audio"} and isinstance(value, Mapping):
            transcript = self.content(value.get("transcript"))
            return transcript + _size(value.get("data")) // _AUDIO_BYTES_PER_TOKEN
        if name == "encrypted_content":
            return _size(value) // _SEALED_BYTES_PER_TOKEN
        if isinstance(value, str):
            sent_as_url = value.startswith("data:") and str(name).endswith("url")
            return _file_tokens(value) if sent_as_url or name in _BINARY else self.text(value)
        return self.text(value) if name in _SHOWN_AS_JSON else self.content(value)

    def _image(self, part: Mapping[Any, Any], source: object) -> int:
        detail = part.get("detail")
        if isinstance(source, Mapping):
            detail = source.get("detail", detail)
            source = source.get("url") or source.get("data")
        size = image_size(source) if isinstance(source, str) else None
        return self._family.image.tokens(size, low_detail=detail == "low")

    def _file(self, part: Mapping[Any, Any], source: object) -> int:
        described = self.content([part.get("title"), part.get("context")])
        if not isinstance(source, Mapping):
            return described + _PAGE
        if source.get("type") in ("text", "content"):  # a document given as plain text or parts
            return described + self.content([source.get("data"), source.get("content")])
        return described + _file_tokens(source.get("file_data") or source.get("data"))

    def tools(self, tools: Sequence[object]) -> int:
        """Tools as chat completions, responses or Anthropic take them, or legacy functions."""
        return sum(map(self._tool, tools)) + (_TOOLS_END if tools else 0)

    def _tool(self, tool: object) -> int:
        tool = plain(tool)
        if not isinstance(tool, Mapping):
            return self._family.per_function + self.text(tool)
        function = tool.get("function")
        if not isinstance(function, Mapping):
            function = tool
        return (
            self._family.per_function
            + self._line(function.get("name"), function.get("description"))
            + self._schema(function.get("parameters") or function.get("input_schema"))
            + self._remainder(function, _TOOL)
        )

    def _schema(self, schema: object) -> int:
        schema = plain(schema)
        if not isinstance(schema, Mapping):
            return 0
        tokens = self._remainder(schema, _SCHEMA)
        properties = schema.get("properties")
        if isinstance(properties, Mapping) and properties:
            tokens += _PROPERTIES_START + sum(map(self._property, properties, properties.values()))
        return tokens

    def _property(self, name: object, schema: object) -> int:
        if not isinstance(schema, Mapping):
            return _PER_PROPERTY + self._line(name, schema)
        tokens = _PER_PROPERTY + self._line(name, schema.get("type"), schema.get("description"))
        if is_list(items := schema.get("enum")) and items:
            tokens += _ENUM_START + sum(_PER_ENUM_ITEM + self.text(item) for item in items)
        return tokens + self._remainder(schema, _PROPERTY)

    def _line(self, *values: object) -> int:
        words = ["" if value is None else str(value) for value in values]
        return self.text(":".join(words).removesuffix("."))

    def _remainder(self, value: Mapping[Any, Any], covered: set[str]) -> int:
        rest = {name: value[name] for name in value if name not in covered}
        return self.text(rest) if rest else 0


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is what JSON calls an array; an iterator is not, counting would use it up."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def plain(value: object) -> object:
    """An SDK's object, such as a message of a response, as the dict it is sent as.

    A class of such objects, which is how the SDKs take a response format, is its schema.
    """
    if isinstance(value, type):
        return _schema_of(value)
    dump = getattr(value, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else value


@functools.lru_cache(maxsize=64)
def _schema_of(model: type) -> object:
    schema = getattr(model, "model_json_schema", None)
    return schema() if callable(schema) else None


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, skipkeys=True, default=_jsonable)
    except ValueError as error:
        raise InvalidRequest("params", f"cannot be written as JSON: {error}") from error


def _jsonable(value: object) -> object:
    dumped = plain(value)
    return None if dumped is value else dumped


def _size(encoded: object) -> int:
    """Bytes of a base64 text, or of the one in a data URL."""
    return len(encoded) * 3 // 4 if isinstance(encoded, str) else 0


def _file_tokens(encoded: object) -> int:
    return max(_PAGE, _size(encoded) // _FILE_BYTES_PER_TOKEN)
