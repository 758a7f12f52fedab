"""AWS: Converse, and InvokeModel, which takes what the model's own interface takes."""

import re

from openlimit.providers.provider import Names, Params, Provider, binary, messages_of


def _params(params: Params, action: str) -> Params | None:
    if not (action.startswith("converse") or "inferenceConfig" in params):
        return None
    messages = [(each["role"], each["content"]) for each in params["messages"]]
    tools = [
        {n: v for n, v in spec.items() if n != "inputSchema"}
        | {"input_schema": spec["inputSchema"]["json"]}
        for tool in (params.get("toolConfig") or {}).get("tools", ())
        if (spec := tool.get("toolSpec"))
    ]
    config = params.get("inferenceConfig") or {}
    most = config.get("maxTokens", config.get("max_new_tokens"))
    return messages_of(params.get("system"), messages, _part) | {"tools": tools, "max_tokens": most}


def _part(part: Params) -> Params:
    if isinstance(text := part.get("text"), str):
        return {"text": text}
    for kind in ("image", "document", "video", "audio"):
        if source := (part.get(kind) or {}).get("source"):
            return binary(kind, source.get("bytes") or "")
    if result := part.get("toolResult"):
        return {"content": [*map(_part, result["content"])]}
    return {"input": {name: part[name] for name in part if name != "cachePoint"}}


BEDROCK = Provider(
    path=re.compile(
        r"^(?>.*?/model/)(?P<model>.+)"
        r"/(?P<action>converse|converse-stream|invoke|invoke-with-response-stream)$"
    ),
    params=_params,
    usage=Names(
        prompt=("prompt_token_count",),  # Llama's
        input=("inputTokens", "inputTokenCount"),
        output=("outputTokens", "outputTokenCount", "generation_token_count"),
        total=("totalTokens",),
        cache_reads=("cacheReadInputTokens", "cacheReadInputTokenCount"),
        cache_writes=("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
    ),
    usages=("usage",),
    totals=("amazon-bedrock-invocationMetrics",),  # of any model; few have their own
)
