"""Request bodies: of every kind of call that is counted, and of those that mean harm."""

import json
from base64 import b64encode
from typing import Any

SECRET = "xyzzy-plugh"
"""Stands in each hostile body where a text of its caller may stand."""

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (640).to_bytes(4) + (480).to_bytes(4)
_IMAGE = f"data:image/png;base64,{b64encode(_PNG).decode()}"
_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Where?"},
        "unit": {"type": "string", "enum": ["c", "f"]},
    },
}
_FUNCTION = {"name": "weather", "description": "Now", "parameters": _SCHEMA}
_CHAT = [
    {"role": "system", "content": "Be brief. 简短一点 🙂"},
    {"role": "user", "name": "ann", "content": "How is the weather in Málaga?"},
]

CALLS: dict[str, dict[str, Any]] = {
    "chat": {"model": "gpt-4o", "messages": _CHAT},
    "chat of another encoding": {"model": "gpt-4", "messages": _CHAT, "max_tokens": 100, "n": 2},
    "chat with tools": {
        "model": "openai/gpt-4o-mini",
        "messages": [
            *_CHAT,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Málaga"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ],
        "tools": [{"type": "function", "function": _FUNCTION}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}},
        "max_completion_tokens": 50,
    },
    "chat with an image": {
        "model": "gpt-4o",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": _IMAGE, "detail": "high"}},
                ],
            }
        ],
    },
    "completion": {"model": "gpt-3.5-turbo-instruct", "prompt": ["One", "Two"], "max_tokens": 7},
    "completion of token ids": {"model": "gpt-3.5-turbo-instruct", "prompt": [1, 2, 3]},
    "embedding": {"model": "text-embedding-3-small", "input": "hello <|endoftext|> world"},
    "embedding of several": {"model": "text-embedding-3-large", "input": ["hello", "world"]},
    "embedding of token ids": {"model": "text-embedding-ada-002", "input": [[1, 2], [3]]},
    "response": {
        "model": "gpt-5",
        "instructions": "Be brief.",
        "input": "How is the weather?",
        "max_output_tokens": 64,
        "tools": [{"type": "function", **_FUNCTION}],
    },
    "response to items": {"model": "o3", "input": [{"role": "user", "content": "Hello"}]},
    "Anthropic message": {
        "model": "claude-sonnet-4-5",
        "system": "Be brief.",
        "max_tokens": 1024,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {
                        "type": "image",
                        "source": {
                            "type": "base64",
                            "media_type": "image/png",
                            "data": b64encode(_PNG).decode(),
                        },
                    },
                ],
            }
        ],
        "tools": [{"name": "weather", "input_schema": _SCHEMA}],
    },
}
"""By a name, the parameters of calls."""


def chat(**params: object) -> bytes:
    """The body of a chat completion."""
    message = {"role": "user", "content": SECRET}
    return json.dumps({"model": "gpt-4o", "messages": [message], **params}).encode()


_DEEP = 100_000
REFUSED: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"model=gpt-4o&prompt=" + SECRET.encode(), "body"),
    "cut off": (chat()[:-3], "body"),
    "two texts": (chat() * 2, "body"),
    "no UTF-8": (chat().replace(b"plugh", b"\xff\xfe"), "body"),
    "UTF-16": (chat().decode().encode("utf-16"), "body"),
    "a list": (b"[" + chat() + b"]", "body"),
    "a text": (json.dumps(SECRET).encode(), "body"),
    "deep lists": (b'{"messages":' + b"[" * _DEEP + b"]" * _DEEP + b"}", "body"),
    "deep objects": (b'{"input":' + b'{"a":' * _DEEP + b"1" + b"}" * _DEEP + b"}", "body"),
    "deep enough to be read": (
        b'{"messages":[' + b'{"content":' * 900 + b"1" + b"}" * 900 + b"]}",
        "body",
    ),
    "NaN": (chat(temperature=float("nan")), "body"),
    "Infinity": (chat(temperature=float("inf")), "body"),
    "a name twice": (chat()[:-1] + b', "messages": []}', "body"),
    "a name twice further in": (chat(tools=[]).replace(b"[]", b'[{"a":1,"a":2}]'), "body"),
    "a name twice, once escaped": (chat()[:-1] + rb', "mess\u0061ges": []}', "body"),
    "no call": (b'{"model": "gpt-4o", "contents": []}', "body"),
    "an empty object": (b"{}", "body"),
    "messages that are a text": (chat(messages=SECRET), "body.messages"),
    "messages that are an object": (chat(messages={"role": SECRET}), "body.messages"),
    "tools that are an object": (chat(tools={"name": SECRET}), "body.tools"),
    "a maximum that is a text": (chat(max_tokens=SECRET * 10_000), "body.max_tokens"),
    "a maximum that is an object": (chat(max_tokens={SECRET: 1}), "body.max_tokens"),
    "a maximum that is no whole number": (chat(max_tokens=1.5), "body.max_tokens"),
    "a maximum beyond doubles": (
        chat(max_tokens=1).replace(b": 1}", b": 1e999}"),
        "body.max_tokens",
    ),
    "a maximum beyond counting": (chat(max_tokens=10**30), "body"),
    "a product beyond counting": (chat(max_tokens=2**62, n=4), "body"),
    "a product beyond writing": (chat(max_tokens=10**4000, n=10**4000), "body"),
    "a number beyond reading": (
        chat(seed=1).replace(b": 1}", b": 1" + b"0" * 9_000 + b"}"),
        "body",
    ),
    "a model that is a number": (chat(model=4), "body.model"),
    "a model that is a list": (chat(model=[SECRET]), "body.model"),
    "a model that is too long": (chat(model="x" * 257), "body.model"),
    "a model that cannot be sent": (chat(model="\ud800"), "body.model"),
}
"""By a name, bodies that are refused, and the field that the error names."""

_MUCH = 900_000  # bytes; a message has room for a megabyte


def _pdf() -> bytes:
    data = b64encode(b"%PDF-" + b"/Type/ObjStm stream\n" * (_MUCH // 30) + b"endstream").decode()
    return chat(
        messages=[{"role": "user", "content": [{"type": "file", "file": {"file_data": data}}]}]
    )


def _filled(name: str, item: str, **params: object) -> bytes:
    """A chat completion with so many of the same item in the list of this name."""
    items = ",".join([item] * (_MUCH // (len(item) + 1)))
    return chat(**params, **{name: []}).replace(
        f'"{name}": []'.encode(), f'"{name}": [{items}]'.encode()
    )


LARGE: dict[str, bytes] = {
    "a text without spaces": chat(messages=[{"role": "user", "content": "a" * _MUCH}]),
    "a text of spaces": chat(messages=[{"role": "user", "content": " " * _MUCH}]),
    "half a surrogate": chat(messages=[{"role": "user", "content": "\ud800" * (_MUCH // 6)}]),
    "an image": chat(messages=[{"type": "image", "source": {"data": "A" * _MUCH}}]),
    "a PDF of streams": _pdf(),
    "messages": _filled("messages", "{}"),
    "lists": _filled("messages", "[]"),
    "tools": _filled("tools", "{}", model="claude-sonnet-4-5"),
    "numbers": _filled("messages", "1"),
    "token ids": json.dumps(
        {"model": "text-embedding-3-small", "input": [1] * (_MUCH // 3)}
    ).encode(),
    "texts": json.dumps(
        {"model": "text-embedding-3-small", "input": ["a"] * (_MUCH // 5)}
    ).encode(),
}
"""By a name, bodies that take long to count, nearly a megabyte each."""
