"""Token counting: the published figures, every kind of call, and nothing that raises."""

import time
from base64 import b64encode
from contextlib import suppress
from typing import Any

import openai
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ParsedChatCompletionMessage
from openai.types.responses import ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from openlimit.errors import InvalidRequest
from openlimit.tokens.counting import count_split, count_tokens

DEFAULT_OUTPUT = 15

# The examples of the cookbook's notebook "How to count tokens with tiktoken".
JARGON = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
        "for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client "
        "deliverable.",
    },
]
WEATHER = {
    "name": "get_current_weather",
    "description": "Get the current weather in a given location",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {
                "type": "string",
                "description": "The city and state, e.g. San Francisco, CA",
            },
            "unit": {
                "type": "string",
                "description": "The unit of temperature to return",
                "enum": ["celsius", "fahrenheit"],
            },
        },
        "required": ["location"],
    },
}
ASKING = [
    {
        "role": "system",
        "content": "You are a helpful assistant that can answer to questions about the weather.",
    },
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]

# 2048 x 768 pixels, and three megabytes of something.
WIDE_PNG = b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x08\0\0\0\x03\0" + bytes(3_000_000)
).decode()
USER = {"role": "user", "content": "hi"}


def tokens_of(content: object, model: str = "gpt-4o") -> int:
    """What a user message's content adds to an empty one."""
    empty = count_tokens(model=model, messages=[{"role": "user"}])
    return count_tokens(model=model, messages=[{"role": "user", "content": content}]) - empty


def added(**params: Any) -> int:
    """What further parameters add to a small chat call."""
    call = {"model": "gpt-4o", "messages": [USER]}
    return count_tokens(**{**call, **params}) - count_tokens(**call)


class NumPyLike:
    """A whole number that is no int, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("gpt-3.5-turbo-0301", 127),
        ("gpt-3.5-turbo-0613", 129),
        ("gpt-3.5-turbo", 129),
        ("gpt-4-0314", 129),
        ("gpt-4-0613", 129),
        ("gpt-4", 129),
        ("azure/gpt-4", 129),
        ("gpt-4o", 124),
        ("gpt-4o-mini", 124),
        ("ft:gpt-4o-2024-08-06:acme::id", 124),
    ],
)
def test_messages_count_as_published(model: str, tokens: int) -> None:
    """The cookbook's messages count as OpenAI's API counted them, plus the default output."""
    assert count_tokens(model=model, messages=JARGON) == tokens + DEFAULT_OUTPUT


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("gpt-3.5-turbo", 105), ("gpt-4", 105), ("gpt-4o", 101), ("gpt-4o-mini", 101)],
)
@pytest.mark.parametrize(
    "tools",
    [
        {"tools": [{"type": "function", "function": WEATHER}]},
        {"tools": [{"type": "function", **WEATHER, "strict": True}]},
        {"functions": [WEATHER]},
        {
            "tools": [
                {
                    "name": WEATHER["name"],
                    "description": WEATHER["description"],
                    "input_schema": WEATHER["parameters"],
                }
            ]
        },
    ],
    ids=["chat", "responses", "legacy", "anthropic"],
)
def test_tools_count_as_published(tools: dict[str, Any], model: str, tokens: int) -> None:
    """The cookbook's tool counts as OpenAI's API counted it, in every API's form."""
    params = {"model": model, "messages": ASKING, **tools, "max_tokens": 1}
    assert count_tokens(**params) == tokens + 1


@pytest.mark.parametrize(
    ("params", "output"),
    [
        ({}, 15),
        ({"max_tokens": 100}, 100),
        ({"max_output_tokens": 50, "max_tokens": 100}, 50),
        ({"max_completion_tokens": 20, "max_output_tokens": 50, "max_tokens": 100}, 20),
        ({"max_completion_tokens": None, "max_tokens": 100}, 100),
        ({"max_completion_tokens": openai.NOT_GIVEN, "max_tokens": 100}, 100),
        ({"max_tokens": openai.omit}, 15),
        ({"max_tokens": None}, 15),
        ({"max_tokens": 0}, 15),
        ({"max_tokens": -1}, 15),
        ({"max_tokens": 100.0}, 100),
        ({"max_tokens": NumPyLike(100)}, 100),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"max_tokens": 100, "n": None}, 100),
        ({"max_tokens": 100, "n": openai.NOT_GIVEN}, 100),
        ({"max_tokens": 100, "n": 0}, 100),
        ({"n": 2}, 30),
    ],
)
def test_the_first_valid_maximum_is_reserved_for_each_choice(
    params: dict[str, Any], output: int
) -> None:
    """The output is the first maximum that is a positive integer, else 15, once per choice."""
    assert added(**params) == output - DEFAULT_OUTPUT


def test_a_model_alone_reserves_its_output() -> None:
    """Without any input a call counts as the output it reserves."""
    assert count_tokens(model="gpt-4o") == 15
    assert count_tokens(model="gpt-4o", max_tokens=512) == 512
    assert count_tokens() == 15


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({"prompt": "hello world"}, 2 + 15),
        ({"prompt": ["hello world", "hello"]}, 3 + 2 * 15),
        ({"prompt": [1, 2, 3, 4]}, 4 + 15),
        ({"prompt": [[1, 2], [3]], "max_tokens": 5}, 3 + 2 * 5),
        ({"prompt": "hello", "n": 2, "best_of": 5, "max_tokens": 10}, 1 + 5 * 10),
        ({"prompt": "hello", "n": 3, "best_of": 1, "max_tokens": 10}, 1 + 3 * 10),
        ({"prompt": "hello", "suffix": " world", "max_tokens": 10}, 2 + 10),
        ({"prompt": "", "max_tokens": 10}, 10),
        ({"prompt": [], "max_tokens": 10}, 10),
        ({"prompt": None}, 15),
        ({"prompt": "<|endoftext|>", "max_tokens": 1}, 7 + 1),
    ],
)
def test_completions_count_their_prompts(params: dict[str, Any], tokens: int) -> None:
    """A completion counts texts or token ids, and an output for each completion it writes."""
    assert count_tokens(**{"model": "gpt-3.5-turbo-instruct", **params}) == tokens


@pytest.mark.parametrize(
    ("params", "tokens"),
    [
        ({"input": "hello world"}, 2),
        ({"input": ["hello world", "hello"]}, 3),
        ({"input": [1, 2, 3]}, 3),
        ({"input": [[1, 2], [3]]}, 3),
        ({"input": "hello", "dimensions": 256, "max_tokens": 9}, 1),
        ({"input": ""}, 0),
        ({"input": []}, 0),
        ({"model": "voyage-3", "input": "hello", "encoding_format": "float"}, 1),
        ({"model": "voyage-3", "input": ["hello", "hello"]}, 2),
        ({"model": "voyage-3", "input": [[1, 2]]}, 2),
    ],
)
def test_embeddings_have_no_output(params: dict[str, Any], tokens: int) -> None:
    """An embedding counts its texts or token ids alone, recognized by model or parameters."""
    assert count_tokens(**{"model": "text-embedding-3-small", **params}) == tokens


@pytest.mark.parametrize(
    ("params", "split"),
    [
        ({"messages": [], "max_tokens": 100, "n": 2}, (3, 200)),
        ({"prompt": ["hello world", "hello"], "max_tokens": 100}, (3, 200)),
        ({"input": ["hello world"], "max_tokens": 100}, (2, 0)),
        ({"input": "", "max_output_tokens": 100}, (7, 100)),
    ],
    ids=["chat", "completion", "embedding", "response"],
)
def test_input_and_output_are_told_apart(params: dict[str, Any], split: tuple[int, int]) -> None:
    """Each kind of call has what it is shown and what it may write, which are its tokens."""
    assert count_split({"model": "gpt-4o", **params}) == split
    assert count_tokens(**{"model": "gpt-4o", **params}) == sum(split)


def test_a_response_counts_like_the_same_chat() -> None:
    """A response's instructions and input count as a system and a user message do."""
    chat = count_tokens(model="gpt-4o", messages=ASKING, max_tokens=7)
    instructions, question = (message["content"] for message in ASKING)
    response = {"model": "gpt-4o", "instructions": instructions, "max_output_tokens": 7}
    parts = [{"type": "input_text", "text": question}]
    assert count_tokens(**{**response, "input": question}) == chat
    assert count_tokens(**{**response, "input": [ASKING[1]]}) == chat
    assert count_tokens(**{**response, "input": [{"role": "user", "content": parts}]}) == chat
    assert count_tokens(model="gpt-4o", input=ASKING, max_output_tokens=7) == chat


def test_items_of_a_response_are_counted() -> None:
    """Calls, their outputs, reasoning and images count; ids and states do not."""
    call = {"type": "function_call", "name": "f", "arguments": '{"a": 1}'}
    output = {"type": "function_call_output", "output": "hello world"}
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hello"}]}
    screenshot = {"type": "computer_screenshot", "image_url": "data:image/png;base64," + WIDE_PNG}

    def tokens(*items: object) -> int:
        return count_tokens(model="gpt-4o", input=[USER, *items]) - count_tokens(
            model="gpt-4o", input=[USER]
        )

    assert tokens(call) == 3 + 1 + 6
    assert tokens({**call, "id": "fc_1", "call_id": "call_1", "status": "completed"}) == tokens(
        call
    )
    assert tokens(output) == 3 + 2
    assert tokens({**output, "output": [{"type": "input_text", "text": "hello world"}]}) == 5
    assert tokens(reasoning) == 3 + 1
    assert tokens({**reasoning, "encrypted_content": "A" * 1600}) == 3 + 1 + 300
    assert tokens({"type": "computer_call_output", "output": screenshot}) == 3 + 85 + 8 * 170
    assert tokens({"type": "image_generation_call", "result": WIDE_PNG}) == 3 + 85 + 8 * 170
    assert tokens({"type": "item_reference", "id": "msg_1"}) == 3


def test_a_stored_prompt_counts_its_variables() -> None:
    """A response made from a stored prompt is no completion; the variables count."""
    prompt = {"id": "pmpt_1", "variables": {"city": "hello world"}}
    assert count_tokens(model="gpt-4o", prompt=prompt) == 2 + 15


def test_an_anthropic_message_is_counted() -> None:
    """System blocks, text, images, documents, tool use and tool results of Anthropic count."""

    def tokens(content: object) -> int:
        return tokens_of(content, "claude-sonnet-4-5")

    text = {"type": "text", "text": "hello world", "cache_control": {"type": "ephemeral"}}
    png = {"type": "base64", "media_type": "image/png", "data": WIDE_PNG}
    image = {"type": "image", "source": png}
    assert tokens([text]) == 4  # of 2, times 1.6
    assert tokens([image]) == 74 * 28
    assert (
        tokens([{"type": "tool_result", "tool_use_id": "t", "content": [text, image]}])
        == 40 + 74 * 28 + 4
    )
    assert tokens([{"type": "tool_result", "tool_use_id": "t", "content": "hello world"}]) == 44
    assert tokens([{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "hello"}}]) > 44
    assert tokens([{"type": "web_search_tool_result", "content": []}]) == 40
    plain = {"type": "text", "media_type": "text/plain", "data": "hello world"}
    assert tokens([{"type": "document", "source": plain, "title": "hello"}]) == 4 + 2
    system = count_tokens(model="claude-sonnet-4-5", messages=[USER], system=[text])
    assert system == count_tokens(model="claude-sonnet-4-5", messages=[USER]) + 3 + 2 + 4


def test_a_conversation_with_tools_costs_claude_their_markup() -> None:
    """Also in the form of OpenAI's chat completions."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "hello"}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "hello"},
    ]
    assert count_tokens(model="claude-sonnet-4-5", messages=messages) > 15 + 3 * 40
    assert count_tokens(model="gpt-4o", messages=messages) < 15 + 40


def test_images_count_by_their_size_and_detail() -> None:
    """A data URL counts by its size, low detail as the base, an address as the largest image."""
    url = "data:image/png;base64," + WIDE_PNG

    def tokens(model: str = "gpt-4o", **image: str) -> int:
        return tokens_of([{"type": "image_url", "image_url": image}], model)

    assert tokens(url=url) == 85 + 8 * 170
    assert tokens(url=url, detail="low") == 85
    assert tokens(url="https://example.com/cat.png") == 85 + 8 * 170
    assert tokens("gpt-4o-mini", url="https://example.com/cat.png") == 2833 + 8 * 5667
    assert tokens_of([{"type": "input_image", "image_url": url, "detail": "low"}]) == 85
    assert tokens_of([{"type": "input_image", "file_id": "file-1"}]) == 85 + 8 * 170
    assert tokens_of([{"type": "image_url"}]) == 85 + 8 * 170


@pytest.mark.parametrize(
    ("model", "high", "auto", "original"),
    [
        ("gpt-5", *[70 + 8 * 140] * 3),
        ("gpt-5-codex", *[70 + 8 * 140] * 3),
        ("gpt-5.1-2025-11-13", *[70 + 8 * 140] * 3),
        ("o3", *[75 + 8 * 150] * 3),
        ("gpt-4.1-mini", *[2489] * 3),
        ("gpt-5-mini", *[2489] * 3),
        ("gpt-5.1-codex-mini", *[2489] * 3),
        ("codex-mini-latest", *[2642] * 3),
        ("gpt-5.2", 1844, 1844, 12_000),
        ("openai/gpt-5.2-pro-2025-12-11", 1844, 1844, 12_000),
        ("gpt-5.3-codex", 1844, 1844, 12_000),
        ("gpt-5.4", 3000, 3000, 12_000),
        ("gpt-5.4-mini-2026-03-17", 4050, 4050, 16_200),
        ("gpt-5.5", 3000, 12_000, 12_000),
        ("gpt-5.6-codex", 3000, 12_000, 12_000),
        ("gpt-5.10", 3000, 14_400, 14_400),
        ("GPT-6", 3000, 14_400, 14_400),
        ("gpt-6.1-sol", 3000, 14_400, 14_400),
        ("gpt-6-mini", 4050, 19_440, 19_440),
        ("claude-sonnet-4-5", *[4784] * 3),
        ("gemini-3-pro", *[2240] * 3),
    ],
)
def test_images_count_as_their_model_sees_them(
    model: str, high: int, auto: int, original: int
) -> None:
    """The most that one costs, by tiles or by patches, in the detail asked for."""
    image = {"type": "input_image", "image_url": "https://example.com/cat.png"}
    assert tokens_of([{**image, "detail": "high"}], model) == high
    assert tokens_of([{**image, "detail": "auto"}], model) == auto
    assert tokens_of([image], model) == auto
    assert tokens_of([{**image, "detail": "original"}], model) == original


def test_payloads_are_not_read_as_text() -> None:
    """A megabyte of base64 counts by its size, in no time, whatever part carries it."""
    payload = "AAEC" * 250_000
    pdf = "data:application/pdf;base64," + payload
    started = time.process_time()
    audio = {"type": "input_audio", "input_audio": {"data": payload}}
    assert tokens_of([audio]) == 937
    assert tokens_of([audio], "gemini-2.5-pro") == 3000
    assert tokens_of([{"type": "file", "file": {"file_data": pdf, "filename": "a.pdf"}}]) == 18_752
    assert tokens_of([{"type": "input_file", "file_data": pdf}]) == 18_750
    assert tokens_of([{"type": "input_file", "file_id": "file-1"}]) == 4500
    assert tokens_of([{"type": "input_file", "file_url": "https://example.com/a.csv"}]) == 4500
    assert (
        tokens_of([{"type": "document", "source": {"type": "base64", "data": payload}}]) == 18_750
    )
    assert tokens_of([{"type": "video_url", "video_url": {"url": pdf}}]) == 18_750
    assert tokens_of([{"type": "hologram", "hologram": {"data": payload}}]) == 18_750
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "content",
    [
        {"type": "redacted_thinking", "data": "A" * 120},
        {"type": "thinking", "thinking": "", "signature": "A" * 120},
        {"type": "reasoning.encrypted", "data": "A" * 120, "id": "r", "index": 0},
        {"type": "reasoning", "summary": [], "encrypted_content": "A" * 120},
        {"type": "compaction", "encrypted_content": "A" * 120},
        {"type": "text", "text": "", "extra_content": {"google": {"thought_signature": "A" * 120}}},
        {"type": "web_search_result", "encrypted_content": "A" * 120},
    ],
)
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "gpt-5", "gemini-2.5-pro"])
def test_sealed_content_counts_by_its_size(content: dict[str, Any], model: str) -> None:
    """Neither as nothing nor as a file: what was encrypted is about 3/16 of its length."""
    assert tokens_of([content], model) == 23
    message = {"role": "assistant", "content": None, "thinking_blocks": [content]}
    empty = {"role": "assistant", "content": None}
    assert (
        count_tokens(model=model, messages=[message])
        == count_tokens(model=model, messages=[empty]) + 23
    )


def test_what_claude_has_thought_counts_with_its_signature() -> None:
    """The text may be a summary: what is read again is in the signature."""
    thought = {"type": "thinking", "thinking": "hello world", "signature": "A" * 1600}
    assert tokens_of([thought], "claude-sonnet-4-5") == 4 + 300
    assert tokens_of([{**thought, "signature": None}], "claude-sonnet-4-5") == 4


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        (None, 0),
        ("", 0),
        ([], 0),
        ("hello world", 2),
        ([{"type": "text", "text": "hello world"}], 2),
        (["hello world"], 2),
        ([{"type": "refusal", "refusal": "hello world"}], 2),
        ([{"type": "never heard of", "body": {"text": "hello world"}}], 2),
        ([None, 5, {}, [], {"type": None}, {"type": ["text"]}], 0),
        ({"type": "text", "text": "hello world"}, 2),
        ("<|endoftext|>", 7),
        (5, 0),
    ],
)
def test_odd_content_counts_its_text(content: object, tokens: int) -> None:
    """The text of any content counts, wherever it is, and what is no text is nothing."""
    assert tokens_of(content) == tokens


def test_tool_calls_count_with_their_arguments() -> None:
    """An assistant's tool calls count their names and arguments, and not their ids."""
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "hello"}}
    empty = count_tokens(model="gpt-4o", messages=[{"role": "assistant", "content": None}])
    message = {"role": "assistant", "content": None, "tool_calls": [call, call]}
    assert count_tokens(model="gpt-4o", messages=[message]) == empty + 2 * (3 + 1 + 1)
    answer = {"role": "tool", "tool_call_id": "call_1", "content": "hello"}
    assert count_tokens(model="gpt-4o", messages=[answer]) == empty + 1
    legacy = {"role": "assistant", "function_call": call["function"]}
    assert count_tokens(model="gpt-4o", messages=[legacy]) == empty + 3 + 1 + 1
    strange = {"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}}
    assert count_tokens(model="gpt-4o", messages=[strange]) > empty + 3 + 2


class City(BaseModel):
    """A response format, as the SDKs take it."""

    name: str
    population: int | None = None


def test_the_format_of_the_answer_counts() -> None:
    """A JSON schema counts as its text, given as such, as a class or in a response's way."""
    schema = City.model_json_schema()
    chat = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    response = {"format": {"type": "json_schema", "name": "city", "schema": schema}}
    assert added(response_format=chat) > 50
    assert added(response_format=City) > 50
    assert added(text=response) > 50
    assert added(text_format=City) > 50
    assert added(output_format={"type": "json_schema", "schema": schema}) > 50
    assert added(output_config={"format": {"type": "json_schema", "schema": schema}}) > 50
    assert 0 < added(response_format={"type": "json_object"}) < 10
    assert added(tool_choice="auto") == 0
    assert added(tool_choice={"type": "function", "function": {"name": "hello"}}) > 1


@pytest.mark.parametrize(
    "tool",
    [
        {},
        None,
        "web_search",
        {"type": "web_search"},
        {"type": "function", "function": None},
        {"type": "function", "function": {"name": "f"}},
        {"name": "f", "parameters": None},
        {"name": "f", "parameters": {"type": "object", "properties": {}}},
        {"name": "f", "parameters": {"properties": {"a": True, "b": None, "c": {"type": ["x"]}}}},
        {"name": "f", "parameters": {"properties": {"a": {"enum": [1, None, True, ["x"]]}}}},
        {"name": "f", "parameters": {"properties": {"a": {"enum": []}, "b": {"enum": "x"}}}},
        {"name": "f", "parameters": {"$ref": "#/$defs/X", "$defs": {"X": {"type": "object"}}}},
        {"name": "f", "parameters": City},
        {"type": "custom", "custom": {"name": "f", "format": {"type": "text"}}},
        {"type": ["bash_20250124"], "name": ["bash"]},
        {"type": {}, "cache_control": {"type": "ephemeral"}},
        openai.pydantic_function_tool(City),
    ],
)
def test_any_tool_counts(tool: object) -> None:
    """Odd and nested tools count something, and never raise."""
    assert added(tools=[tool]) >= 7 + 12
    assert added(model="claude-sonnet-4-5", tools=[tool]) >= 7 + 346


def test_nested_schemas_count_as_their_json() -> None:
    """What a schema says below its first level is not lost."""
    deep = {"type": "object", "properties": {"x": {"description": "hello " * 100}}}
    flat = {"type": "object", "properties": {"a": {"type": "object"}}}
    nested = {"type": "object", "properties": {"a": deep}}
    tool = {"name": "f", "parameters": flat}
    assert added(tools=[{**tool, "parameters": nested}]) > added(tools=[tool]) + 100


def completion(**message: Any) -> ChatCompletion:
    return ChatCompletion.model_validate(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "gpt-4o",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "logprobs": None,
                    "message": {"role": "assistant", **message},
                }
            ],
        }
    )


def test_a_message_of_the_sdk_counts_as_its_dict() -> None:
    """An assistant's message may be put back as the SDK gave it, parsed or not."""
    plain = {"role": "assistant", "content": '{"name": "hello"}'}
    expected = count_tokens(model="gpt-4o", messages=[USER, plain])
    message = completion(**plain).choices[0].message
    parsed = ParsedChatCompletionMessage[City].model_validate(
        {**plain, "parsed": {"name": "hello"}}
    )
    assert count_tokens(model="gpt-4o", messages=[USER, message]) == expected
    assert count_tokens(model="gpt-4o", messages=[USER, parsed]) == expected


def test_output_of_the_sdk_counts_as_input() -> None:
    """A response's output may be put back as the SDK gave it, and is not an embedding's input."""
    output = ResponseOutputMessage.model_validate(
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello world", "annotations": []}],
        }
    )
    reasoning = ResponseReasoningItem(id="rs_1", type="reasoning", summary=[])
    params = {"model": "gpt-4o", "input": [reasoning, output], "max_output_tokens": 1}
    assert count_tokens(**params) == 3 + 3 + (3 + 1 + 2) + 1


def test_absent_parameters_do_not_tell_the_kind() -> None:
    """A parameter given as None or as the SDK's mark is as good as not given."""
    expected = count_tokens(model="gpt-4o", input="hello")
    absent = {"messages": openai.omit, "prompt": None, "dimensions": openai.NOT_GIVEN}
    assert count_tokens(**{"model": "gpt-4o", "input": "hello", **absent}) == expected
    assert count_tokens(messages=[USER], tools=openai.omit, model=None) > 15


@pytest.mark.parametrize("messages", ["hello", {"role": "user"}, 5, iter([USER])])
def test_messages_that_are_no_list_are_refused(messages: object) -> None:
    """Messages that the API would refuse, or that counting would use up, raise InvalidRequest."""
    with pytest.raises(InvalidRequest, match="expected a list") as refused:
        count_tokens(model="gpt-4o", messages=messages)
    assert refused.value.field == "messages"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "100"),
        ("max_completion_tokens", 1.5),
        ("n", True),
        ("tools", iter([{"name": "f"}])),
        ("functions", {"name": "f"}),
    ],
)
def test_what_would_be_miscounted_is_refused(name: str, value: object) -> None:
    """A parameter without a sensible reading is named, not silently counted as absent."""
    with pytest.raises(InvalidRequest) as refused:
        count_tokens(**{"model": "gpt-4o", "messages": [USER], name: value})
    assert refused.value.field == name


@pytest.mark.parametrize(
    "params",
    [
        {"messages": [{"role": "user", "content": b"hello"}]},
        {"input": b"hello", "dimensions": 1},
        {"prompt": b"hello"},
        {"prompt": iter(["hello"])},
        {"input": {"hello"}, "dimensions": 1},
        {"input": (item for item in [USER])},
        {"messages": [{"role": "user", "content": {"a": "hello"}.values()}]},
    ],
)
def test_bytes_and_iterators_are_refused(params: dict[str, object]) -> None:
    """They would count as nothing, or be used up."""
    with pytest.raises(InvalidRequest, match="pass a text or a list"):
        count_tokens(**{"model": "gpt-4o", **params})


def test_what_contains_itself_is_refused() -> None:
    """Content that no JSON can express raises InvalidRequest instead of hanging."""
    content: list[object] = []
    content += [content, content]
    schema: dict[str, object] = {}
    schema["properties"] = {"a": {"items": schema}}
    with pytest.raises(InvalidRequest):
        count_tokens(model="gpt-4o", messages=[{"role": "user", "content": content}])
    with pytest.raises(InvalidRequest):
        count_tokens(messages=[USER], tools=[{"name": "f", "parameters": schema}])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = """
    type role content name text image_url url detail source data input file audio input_audio
    tool_calls function arguments parameters input_schema properties enum description items
    format encrypted_content output result model n max_tokens function_call detail signature
    file_data filename title thinking
""".split()  # noqa: SIM905 - thirty words are easier to read in rows than in a column
TYPES = ["text", "image_url", "image", "input_image", "file", "document", "tool_use", "reasoning"]
TYPES += ["redacted_thinking", "thinking", "tool_result", "bash_20250124", "input_file"]
names = st.text(max_size=8) | st.sampled_from(NAMES)
types = st.sampled_from(TYPES)
json_like = st.recursive(
    scalars | types,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(names, inner, max_size=5)
        | st.fixed_dictionaries({"type": types}, optional={"source": inner, "image_url": inner})
    ),
    max_leaves=20,
)
models = st.sampled_from(["gpt-4o", "gpt-3.5-turbo-0301", "claude-3", "o1", "text-embedding-3", ""])


@given(
    kind=st.sampled_from(["prompt", "input", "instructions", "tools", "n", "response_format"]),
    value=json_like,
    messages=st.none() | st.lists(json_like, max_size=3),
    model=models | json_like,
)
def test_nothing_legal_raises(kind: str, value: object, messages: object, model: object) -> None:
    """Whatever JSON a call is made with, it has a count, and that is not negative."""
    params = {"model": model, "messages": messages, kind: value}
    if kind in ("n", "tools"):  # a number or a list is all that these may be
        with suppress(InvalidRequest):
            assert count_tokens(**params) >= 0
    else:
        assert count_tokens(**params) >= 0


@example(model="claude-3", messages=[], last={"role": []})
@given(model=models, messages=st.lists(json_like, max_size=4), last=json_like)
def test_a_further_message_never_counts_less(
    model: str, messages: list[object], last: object
) -> None:
    """Adding a message to a call never lowers its count."""
    fewer = count_tokens(model=model, messages=messages)
    assert count_tokens(model=model, messages=[*messages, last]) >= fewer
    response = count_tokens(model="gpt-4o", input=[{}, *messages])
    assert count_tokens(model="gpt-4o", input=[{}, *messages, last]) >= response


def test_a_usual_call_is_counted_in_microseconds() -> None:
    """A chat call of some 500 tokens does not hold up the event loop."""
    call = {"model": "gpt-4o", "messages": JARGON * 4}
    assert 400 < count_tokens(**call) < 600
    started = time.process_time()
    for _ in range(50):
        count_tokens(**call)
    assert (time.process_time() - started) / 50 < 0.005
