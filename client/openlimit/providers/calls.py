"""Which requests are calls that are limited, and their parameters as ``.limit()`` takes them. Pure.

Azure, Google and AWS have the model in the path. What Gemini and Bedrock's Converse are sent looks
different from what OpenAI and Anthropic are, and is rewritten as far as it is counted.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["CallParams", "Route", "params_of", "route_of"]

# OpenAI's threads have messages as well, at another place than Anthropic's.
_PLAIN = re.compile(r"/(chat/completions|completions|embeddings|responses|v\d+/messages)/?$")
_AZURE = re.compile(r"/deployments/([^/]+)/")
_GOOGLE = re.compile(
    r"/(?!count-tokens:)([^/:]+)"
    r":(generateContent|streamGenerateContent|embedContent|batchEmbedContents"
    r"|rawPredict|streamRawPredict)$"
)
_BEDROCK = re.compile(r"/model/(.+)/(converse|converse-stream|invoke|invoke-with-response-stream)$")


class CallParams(NamedTuple):
    """What a request asks for."""

    model: str
    """Empty where the request names none."""
    params: Mapping[str, Any]
    streams: bool


class Route(NamedTuple):
    """What a request's path says of it."""

    model: str
    action: str
    """Google's and AWS's; empty for the APIs that others share."""


def route_of(method: str, path: str) -> Route | None:
    """Of a request that may be a call; None for what is not limited. The path is unquoted."""
    if method.upper() != "POST":
        return None
    if found := _GOOGLE.search(path) or _BEDROCK.search(path):
        return Route(found[1], found[2])
    if not _PLAIN.search(path):
        return None
    found = _AZURE.search(path)
    return Route(found[1] if found else "", "")


def params_of(route: Route, body: object) -> CallParams | None:
    """The call that a request makes with these parameters, or these bytes; None for no call."""
    params = _parsed(body) if isinstance(body, bytes) else body
    if not isinstance(params, Mapping) or not isinstance(params.get("model") or "", str):
        return None
    model = params.get("model") or route.model
    streams = params.get("stream") is True or "stream" in route.action.lower()
    return CallParams(model, {**_rewritten(params, route.action), "model": model}, streams)


def _rewritten(params: Mapping[str, Any], action: str) -> Mapping[str, Any]:
    try:
        if action.startswith("converse") or "inferenceConfig" in params:
            return _of_converse(params)
        if action.endswith("enerateContent"):
            return _of_gemini(params)
        if "mbedContent" in action:
            requests = params.get("requests", [params])
            texts = [_part(part) for each in requests for part in each["content"]["parts"]]
            return {"input": [part.get("text", "") for part in texts], "encoding_format": "float"}
        if not action or {"messages", "prompt"} & params.keys():
            return params
    except (TypeError, LookupError, AttributeError, RecursionError):
        pass
    return {"messages": [{"role": "user", "content": [{"input": params}]}]}  # the text of it


def _of_gemini(params: Mapping[str, Any]) -> dict[str, Any]:
    contents = params["contents"]
    contents = [contents] if isinstance(contents, Mapping) else contents
    messages = [(each.get("role", "user"), each["parts"]) for each in contents]
    if system := _either(params, "systemInstruction"):
        messages.insert(0, ("system", system["parts"]))
    tools = [
        function
        for tool in params.get("tools") or ()
        for function in _either(tool, "functionDeclarations") or [tool]
    ]
    config = _either(params, "generationConfig") or {}
    return _messages(messages) | {
        "tools": tools,
        "max_tokens": _either(config, "maxOutputTokens"),
        "n": _either(config, "candidateCount"),
        "response_format": _either(config, "responseSchema"),
    }


def _of_converse(params: Mapping[str, Any]) -> dict[str, Any]:
    messages = [(each["role"], each["content"]) for each in params["messages"]]
    if system := params.get("system"):
        messages.insert(0, ("system", system))
    tools = [
        {n: v for n, v in spec.items() if n != "inputSchema"}
        | {"input_schema": spec["inputSchema"]["json"]}
        for tool in (params.get("toolConfig") or {}).get("tools", ())
        if (spec := tool.get("toolSpec"))
    ]
    config = params.get("inferenceConfig") or {}
    most = config.get("maxTokens", config.get("max_new_tokens"))
    return _messages(messages) | {"tools": tools, "max_tokens": most}


def _messages(messages: list[tuple[str, Any]]) -> dict[str, Any]:
    return {
        "messages": [
            {"role": role, "content": parts if isinstance(parts, str) else [*map(_part, parts)]}
            for role, parts in messages
        ]
    }


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a message as OpenAI or Anthropic would have it."""
    if isinstance(text := part.get("text"), str):
        return {"text": text}
    if inline := _either(part, "inlineData"):
        return _binary(str(_either(inline, "mimeType")), inline["data"])
    if _either(part, "fileData"):
        return {"type": "file"}
    for kind in ("image", "document", "video", "audio"):
        if source := (part.get(kind) or {}).get("source"):
            return _binary(kind, source.get("bytes") or "")
    if result := part.get("toolResult"):
        return {"content": [*map(_part, result["content"])]}
    return {"input": {n: v for n, v in part.items() if n not in {"cachePoint", "thoughtSignature"}}}


def _binary(kind: str, data: str) -> Mapping[str, Any]:
    if kind.startswith("image"):
        return {"type": "image_url", "image_url": {"url": f"data:image;base64,{data}"}}
    if kind.startswith("audio"):
        return {"type": "input_audio", "input_audio": {"data": data}}
    return {"type": "file", "file": {"file_data": data}}


def _either(thing: Mapping[str, Any], name: str) -> Any:
    """Google takes its fields in camel case and in snake case."""
    return thing.get(name) or thing.get(re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name))


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
