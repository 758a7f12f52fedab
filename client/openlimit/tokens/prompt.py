"""The tokens of what a model is shown: messages, their parts, tools, schemas.

The framing of messages and tools follows OpenAI's cookbook, notebook "How to count tokens with
tiktoken", which is exact for plain messages and flat tools. Everything else is an estimate that
errs high: a schema beyond the flat ones counts as the JSON it is sent as, and a tool call is framed
like a message. What cannot be read is guessed from its size, see files.py; providers/anthropic.py
says what is known about Claude, and how far off the count can be.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from openlimit.errors import InvalidRequest
from openlimit.providers import family_of
from openlimit.tokens.encodings import base_model, count_text, encoding_name
from openlimit.tokens.files import PAGE, audio_tokens, file_tokens, sealed_tokens
from openlimit.tokens.images import image_size
from openlimit.units import whole_number

_REPLY_PRIMING = 3  # every reply is begun for the model
_PROPERTIES_START = 3
_PER_PROPERTY = 3
_ENUM_START = -3
_PER_ENUM_ITEM = 3

# Sent along, but not shown to the model.
_NOT_SHOWN = (
    {"type", "id", "status", "detail", "call_id", "tool_call_id", "tool_use_id"}
    | {"annotations", "cache_control", "citations", "logprobs"}
    | {"parsed", "parsed_arguments"}  # what an SDK adds to a message
)
# Of a part, what the provider handed out encrypted: reasoning, and what vouches for it.
_SEALED = {"encrypted_content", "signature", "thought_signature", "thoughtSignature"}
_SHOWN_AS_JSON = {"action", "arguments", "input"}
_BINARY = {"b64_json", "data", "file_data", "result"}

_RESULTS = ("tool", "function")  # roles in chat completions, where any JSON may stand
_TOOL_BLOCKS = re.compile("tool_use|tool_result")  # types, in Anthropic's messages

# Of a tool, a schema and a property: what the cookbook's formula covers or is not shown.
_TOOL = {"type", "name", "description", "parameters", "input_schema", "strict", "cache_control"}
_SCHEMA = {"type", "properties", "required", "additionalProperties", "$schema", "title"}
_PROPERTY = {"type", "description", "enum", "title"}


class PromptCounter:
    """Counts the tokens of anything a call shows to `model`; it holds no state of its own."""

    __slots__ = ("_encoding", "_family")

    def __init__(self, model: object) -> None:
        name = base_model(model)
        self._encoding = encoding_name(name)
        self._family = family_of(name)

    def text(self, value: object) -> int:
        """A text, or any other value written as JSON."""
        text = value if isinstance(value, str) else _json(value)
        tokens = count_text(text, self._encoding)
        return self._family.text(text, tokens) if self._family.text else tokens

    def texts(self, value: object) -> int:
        """What completions and embeddings take: a text, token ids, or a list of either."""
        if isinstance(value, str):
            return self.text(value)
        if not is_list(value):
            return self.content(value)
        return sum(1 if _is_token(item) else self.texts(item) for item in value)

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
            calls = message.get("tool_calls")
            several = len(calls) if is_list(calls) else 0
            several += bool(message.get("function_call"))  # what a tool call was called before
            tokens += several * self._family.per_call
            if message.get("role") in _RESULTS:
                tokens += self._family.per_result
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
        match kind := part.get("type"):
            case "image_url" | "input_image" | "image" | "computer_screenshot":
                return self._image(part, part.get("image_url") or part.get("source"))
            case "image_generation_call":
                return self._image(part, part.get("result"))
            case "file" | "input_file" | "document":
                return self._file(part, part.get("file") or part.get("source") or part)
            case "redacted_thinking" | "reasoning.encrypted":
                return sealed_tokens(part.get("data"))
        tokens = sum(self._field(name, value) for name, value in part.items())
        if self._family.per_result and isinstance(kind, str) and _TOOL_BLOCKS.search(kind):
            tokens += self._family.per_result
        return tokens

    def _field(self, name: object, value: object) -> int:
        if name in _NOT_SHOWN:
            return 0
        if name in {"audio", "input_audio"} and isinstance(value, Mapping):
            heard = audio_tokens(value.get("data"), self._family.per_second)
            return self.content(value.get("transcript")) + heard
        if name in _SEALED and isinstance(value, str):
            return sealed_tokens(value)
        if isinstance(value, str):
            sent_as_url = value.startswith("data:") and str(name).endswith("url")
            is_file = sent_as_url or name in _BINARY
            return file_tokens(value, self.text) if is_file else self.text(value)
        return self.text(value) if name in _SHOWN_AS_JSON else self.content(value)

    def _image(self, part: Mapping[Any, Any], source: object) -> int:
        detail = part.get("detail")
        if isinstance(source, Mapping):
            detail = source.get("detail", detail)
            source = source.get("url") or source.get("data")
        size = image_size(source) if isinstance(source, str) else None
        return self._family.image.tokens(size, detail)

    def _file(self, part: Mapping[Any, Any], source: object) -> int:
        described = self.content([part.get("title"), part.get("context")])
        if not isinstance(source, Mapping):
            return described + PAGE
        described += self.content(source.get("filename"))
        if source.get("type") in ("text", "content"):  # a document given as plain text or parts
            return described + self.content([source.get("data"), source.get("content")])
        return described + file_tokens(source.get("file_data") or source.get("data"), self.text)

    def tools(self, tools: Sequence[object]) -> int:
        """Tools as chat completions, responses or Anthropic take them, or legacy functions."""
        framing = self._family.per_tools + self._family.per_function * len(tools)
        return framing + sum(map(self._tool, tools)) if tools else 0

    def _tool(self, tool: object) -> int:
        tool = plain(tool)
        if not isinstance(tool, Mapping):
            return self.text(tool)
        if beside := self._family.tool:
            shown = {name: tool[name] for name in tool if name not in _NOT_SHOWN - {"type"}}
            return self.text(shown) + beside(tool)
        function = tool.get("function")
        if not isinstance(function, Mapping):
            function = tool
        tokens = self._line(function.get("name"), function.get("description"))
        tokens += self._schema(function.get("parameters") or function.get("input_schema"))
        return tokens + self._remainder(function, _TOOL)

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


def _is_token(item: object) -> bool:
    """Whether it is a token's id. A text is told first: to ask more takes microseconds."""
    return not isinstance(item, str) and whole_number(item) is not None


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
