"""Google: Gemini's own interface, and the paths under which Vertex serves other models."""

import re
from collections.abc import Mapping
from typing import Any

from openlimit.providers.provider import Family, Names, Params, Provider, Tiles, binary, messages_of


def _params(params: Params, action: str) -> Params | None:
    if action.endswith("enerateContent"):
        return _generation(params)
    if "mbedContent" in action:
        requests = params.get("requests", [params])
        texts = [_part(part) for each in requests for part in each["content"]["parts"]]
        return {"input": [part.get("text", "") for part in texts], "encoding_format": "float"}
    return None


def _generation(params: Params) -> Params:
    contents = params["contents"]
    contents = [contents] if isinstance(contents, Mapping) else contents
    messages = [(each.get("role", "user"), each["parts"]) for each in contents]
    system = (_either(params, "systemInstruction") or {"parts": None})["parts"]
    tools = [
        function
        for tool in params.get("tools") or ()
        for function in _either(tool, "functionDeclarations") or [tool]
    ]
    config = _either(params, "generationConfig") or {}
    return messages_of(system, messages, _part) | {
        "tools": tools,
        "max_tokens": _either(config, "maxOutputTokens"),
        "n": _either(config, "candidateCount"),
        "response_format": _either(config, "responseSchema"),
    }


def _part(part: Params) -> Params:
    if isinstance(text := part.get("text"), str):
        return {"text": text}
    if inline := _either(part, "inlineData"):
        return binary(str(_either(inline, "mimeType")), inline["data"])
    if _either(part, "fileData"):
        return {"type": "file"}
    return {"input": {name: part[name] for name in part if name != "thoughtSignature"}}


def _either(thing: Params, name: str) -> Any:
    """Google takes its fields in camel case and in snake case."""
    return thing.get(name) or thing.get(re.sub("[A-Z]", lambda m: f"_{m[0].lower()}", name))


GEMINI = Provider(
    path=re.compile(
        r"/(?!count-tokens:)(?P<model>[^/:]+)"
        r":(?P<action>generateContent|streamGenerateContent|embedContent|batchEmbedContents"
        r"|rawPredict|streamRawPredict)$"
    ),
    params=_params,
    usage=Names(
        prompt=("promptTokenCount", "prompt_token_count"),
        output=("candidatesTokenCount", "candidates_token_count"),
        total=("totalTokenCount", "total_token_count"),
        beside_prompt=("toolUsePromptTokenCount", "tool_use_prompt_token_count"),
        beside_output=("thoughtsTokenCount", "thoughts_token_count"),
    ),
    usages=("usageMetadata",),
    # An image costs four times what Gemini 3 was measured to take by default, its highest
    # resolution, and more than six tiles of Gemini 2; a recording 32 tokens a second. Google,
    # "Media resolution" and "Audio understanding".
    families={"*gemini*": Family(image=Tiles(2240, 0), per_second=32)},
)
