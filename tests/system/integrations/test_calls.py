"""Requests of each API are known by their path, and counted as what they ask for."""

from base64 import b64encode
from typing import Any

import httpx2
import pytest

from openlimit.integrations.http import LimitedTransport
from openlimit.providers.calls import params_of, route_of
from openlimit.tokens.counting import count_split
from tests.system.integrations.conftest import Witness

PNG = b64encode(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\3\0" * 2 + b"\0" * 99).decode()
HELLO: Any = [{"role": "user", "content": "Hello!"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "weather", "description": "Tells the weather."}
SAME: Any = {
    "messages": [
        {"role": "system", "content": [{"text": "Be brief."}]},
        {
            "role": "user",
            "content": [
                {"text": "What is this?"},
                {"type": "image_url", "image_url": {"url": f"data:image;base64,{PNG}"}},
                {"type": "file"},
            ],
        },
    ],
    "tools": [TOOL | {"parameters": SCHEMA}],
    "max_tokens": 50,
}
"""What the two that follow ask, as OpenAI has it."""
GEMINI = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {
            "role": "user",
            "parts": [
                {"text": "What is this?", "thoughtSignature": "x" * 400},
                {"inlineData": {"mimeType": "image/png", "data": PNG}},
                {"file_data": {"file_uri": "gs://b/f"}},
            ],
        }
    ],
    "tools": [{"function_declarations": [TOOL | {"parameters": SCHEMA}]}],
    "generation_config": {"maxOutputTokens": 50},
}
CONVERSE = {
    "system": [{"text": "Be brief."}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"text": "What is this?"},
                {"image": {"format": "png", "source": {"bytes": PNG}}},
                {"document": {"name": "f", "source": {"s3Location": {"uri": "s3://b/f"}}}},
            ],
        }
    ],
    "toolConfig": {"tools": [{"toolSpec": TOOL | {"inputSchema": {"json": SCHEMA}}}]},
    "inferenceConfig": {"maxTokens": 50},
}


def asked(path: str, body: object) -> Any:
    route = route_of("POST", path)
    return route and params_of(route, body)


@pytest.mark.parametrize(
    ("path", "body", "model", "streams"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o"}, "gpt-4o", False),
        ("/v1/responses/", {"stream": True}, "", True),
        ("/v1/embeddings", {"model": None}, "", False),
        ("/openai/deployments/prod/chat/completions", {}, "prod", False),
        ("/openai/deployments/prod/embeddings", {"model": "m"}, "m", False),
        ("/v1beta/models/gemini-x:generateContent", GEMINI, "gemini-x", False),
        ("/v1beta/models/gemini-x:streamGenerateContent", GEMINI, "gemini-x", True),
        ("/v1beta/models/gemini-x:embedContent", {}, "gemini-x", False),
        ("/v1/projects/p/publishers/anthropic/models/c@1:rawPredict", {}, "c@1", False),
        ("/v1/projects/p/publishers/anthropic/models/c@1:streamRawPredict", {}, "c@1", True),
        ("/model/us.claude-v1:0/converse", CONVERSE, "us.claude-v1:0", False),
        ("/model/us.claude-v1:0/converse-stream", CONVERSE, "us.claude-v1:0", True),
        ("/model/arn:aws:x/y/invoke-with-response-stream", {}, "arn:aws:x/y", True),
        ("/model/titan/invoke", {"inputText": "Hi"}, "titan", False),
    ],
)
def test_the_model_is_that_of_the_body_else_that_of_the_path(
    path: str, body: Any, model: str, streams: bool
) -> None:
    """Whether it streams is told in the same two places."""
    call = asked(path, body)
    assert (call.model, call.params["model"], call.streams) == (model, model, streams)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/gemini-x",
        "/v1beta/models/gemini-x:countTokens",
        "/v1/projects/p/publishers/anthropic/models/count-tokens:rawPredict",
        "/model/m/count-tokens",
        "/v1/messages/count_tokens",
        "/v1/threads/t/messages",
        "/v1/images/generations",
        "/v1/files",
    ],
)
def test_what_costs_no_tokens_is_no_call(path: str) -> None:
    """Nor is what only looks."""
    assert route_of("POST", path) is None
    assert route_of("GET", "/v1/chat/completions") is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1beta/models/gpt-4o:generateContent", GEMINI),
        ("/model/gpt-4o/converse", CONVERSE),
        ("/model/gpt-4o/invoke", CONVERSE),
    ],
)
def test_gemini_and_converse_are_counted_as_openais_calls_are(path: str, body: Any) -> None:
    """Text, images, files, tools, the maximum."""
    assert count_split(asked(path, body).params) == count_split(SAME | {"model": "gpt-4o"})


@pytest.mark.parametrize(
    ("path", "body", "least"),
    [
        (
            "/models/m:generateContent",
            {"contents": [{"parts": [{"functionCall": "word " * 99}]}]},
            99,
        ),
        ("/models/m:generateContent", {"contents": "word " * 99}, 99),
        ("/models/m:generateContent", {"contents": {"parts": [{"text": "word " * 99}]}}, 99),
        ("/models/m:generateContent", {"contents": [7], "x": "word " * 99}, 99),
        (
            "/models/m:generateContent",
            {"contents": [], "generationConfig": {"maxOutputTokens": 9, "candidateCount": 11}},
            99,
        ),
        ("/models/m:embedContent", {"content": {"parts": [{"text": "word " * 99}]}}, 99),
        (
            "/models/m:batchEmbedContents",
            {"requests": [{"content": {"parts": [{"text": "word " * 50}]}}] * 2},
            100,
        ),
        ("/model/m/converse", {"messages": [{"role": "user", "content": "word " * 99}]}, 99),
        (
            "/model/m/converse",
            {"messages": [{"role": "u", "content": [{"toolUse": {"input": "word " * 99}}]}]},
            99,
        ),
        (
            "/model/m/converse",
            {
                "messages": [
                    {"role": "u", "content": [{"toolResult": {"content": [{"text": "a " * 99}]}}]}
                ]
            },
            99,
        ),
        ("/model/m/converse", {"messages": 7, "x": "word " * 99}, 99),
        ("/model/m/invoke", {"inputText": "word " * 99}, 99),
        ("/model/m/invoke", {"messages": HELLO, "max_tokens": 99}, 99),
        ("/model/m/invoke", {"prompt": "word " * 99}, 99),
    ],
)
def test_nothing_that_is_sent_counts_as_nothing(path: str, body: Any, least: int) -> None:
    """Also what is not understood."""
    assert least <= sum(count_split(asked(path, body).params)) < 3 * least


def test_what_is_nested_too_deeply_is_still_a_call(witness: Witness) -> None:
    """The provider will say what it thinks of it."""
    part: Any = {"text": "Hi"}
    for _ in range(300):
        part = {"toolResult": {"content": [part]}}
    body = {"messages": [{"role": "user", "content": [part]}]}
    inner = httpx2.MockTransport(lambda _: httpx2.Response(200))
    with httpx2.Client(transport=LimitedTransport(witness, inner)) as client:
        assert client.post("http://provider/model/m/converse", json=body).is_success
    [(model, tokens)] = witness.charged
    assert (model, witness.over) == ("m", 1)
    assert tokens > 300


def test_gemini_is_charged_and_settled(witness: Witness) -> None:
    """Through the transport, in one piece and as a list or events of a stream."""
    usage = {"promptTokenCount": 11, "candidatesTokenCount": 2, "thoughtsTokenCount": 3}
    answers = iter(
        [
            httpx2.Response(200, json={"usageMetadata": usage}),
            httpx2.Response(200, json=[{"usageMetadata": {"promptTokenCount": 11}}] * 2),
            httpx2.Response(200, json=[{"candidates": []}, {"usageMetadata": usage}]),
        ]
    )
    transport = LimitedTransport(witness, httpx2.MockTransport(lambda _: next(answers)))
    with httpx2.Client(transport=transport, base_url="http://provider/v1beta/models/") as client:
        client.post("/gemini-x:generateContent", json=GEMINI)
        client.post("/gemini-x:streamGenerateContent", json=GEMINI)
        client.post("/gemini-x:streamGenerateContent", json=GEMINI)
    used = {"tokens": 16, "input_tokens": 11, "output_tokens": 5}
    assert witness.settled == [used, {"input_tokens": 11}, used]
    assert [model for model, _ in witness.charged] == ["gemini-x"] * 3
