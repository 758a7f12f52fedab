"""What a call has used is read from what the SDKs themselves say."""

from fractions import Fraction
from math import inf, nan
from types import MappingProxyType, SimpleNamespace
from typing import Any

import anthropic.types
import anthropic.types.beta
import openai.types
import openai.types.create_embedding_response
import openai.types.responses
import pytest
from pydantic import BaseModel

from openlimit.errors import InvalidRequest
from openlimit.providers.usage import units_of

CHAT = openai.types.CompletionUsage.model_validate(
    {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
)
EMBEDDING = openai.types.create_embedding_response.Usage(prompt_tokens=7, total_tokens=7)
RESPONSE = openai.types.responses.ResponseUsage.model_validate(
    {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }
)
MESSAGE = anthropic.types.Usage(
    input_tokens=10,
    output_tokens=5,
    cache_creation_input_tokens=100,
    cache_read_input_tokens=1000,
    service_tier="standard",
)
PLAIN_MESSAGE = anthropic.types.Usage(input_tokens=10, output_tokens=5)
MESSAGE_DELTA = anthropic.types.MessageDeltaUsage(output_tokens=5)


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        (CHAT, {"tokens": 15, "input_tokens": 10, "output_tokens": 5}),
        (EMBEDDING, {"tokens": 7, "input_tokens": 7, "output_tokens": 0}),
        (RESPONSE, {"tokens": 15, "input_tokens": 10, "output_tokens": 5}),
        (MESSAGE, {"tokens": 115, "input_tokens": 110, "output_tokens": 5}),
        (PLAIN_MESSAGE, {"tokens": 15, "input_tokens": 10, "output_tokens": 5}),
        (MESSAGE_DELTA, {"output_tokens": 5}),
    ],
)
def test_an_sdks_usage_is_read_as_object_and_as_dict(
    usage: BaseModel, units: dict[str, int]
) -> None:
    """The classes of the SDKs, and what they dump, with absent fields or without, mean the same."""
    assert units_of(usage) == units
    assert units_of(usage.model_dump()) == units
    assert units_of(usage.model_dump(exclude_none=True)) == units


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"tokens": 12}, {"tokens": 12}),
        ({"tokens": 12, "images": 2, "requests": 1}, {"tokens": 12, "images": 2, "requests": 1}),
        (MappingProxyType({"tokens": 0}), {"tokens": 0}),
        ({"tokens": 12.0}, {"tokens": 12}),
        ({"input_tokens": 3, "images": 2}, {"input_tokens": 3, "images": 2}),
        (
            {"input_tokens": 3, "output_tokens": 4, "images": 2},
            {"input_tokens": 3, "output_tokens": 4, "images": 2, "tokens": 7},
        ),
        (
            {"input_tokens": 3, "output_tokens": 4, "tokens": 5},
            {"input_tokens": 3, "output_tokens": 4, "tokens": 5},
        ),
        ({"tokens": 2**63 - 1}, {"tokens": 2**63 - 1}),
    ],
)
def test_numbers_by_unit_stay_what_they_are(usage: Any, units: dict[str, int]) -> None:
    """Any unit passes; the total is added only where nothing was said of it."""
    assert units_of(usage) == units


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"total_tokens": 9}, {"tokens": 9}),
        ({"prompt_tokens": 9}, {"input_tokens": 9}),
        (
            {"prompt_tokens": 9, "completion_tokens": None, "total_tokens": None},
            {"input_tokens": 9},
        ),
        ({"prompt_tokens": 9, "cost": 0.25, "provider": "x"}, {"input_tokens": 9}),
        (SimpleNamespace(output_tokens=2), {"output_tokens": 2}),
        (
            {"prompt_tokens": 1, "cache_read_input_tokens": 5, "total_tokens": 2},
            {"input_tokens": 1, "tokens": 2, "output_tokens": 1},
        ),
    ],
)
def test_what_a_provider_does_not_tell_is_left_out(usage: Any, units: dict[str, int]) -> None:
    """Providers that imitate an interface leave fields out, or add their own."""
    assert units_of(usage) == units


XAI = {
    "prompt_tokens": 32,
    "completion_tokens": 9,
    "total_tokens": 135,
    "completion_tokens_details": {"reasoning_tokens": 94},
}
GEMINI = {
    "promptTokenCount": 20,
    "candidatesTokenCount": 7,
    "thoughtsTokenCount": 40,
    "toolUsePromptTokenCount": 3,
    "cachedContentTokenCount": 10,
    "totalTokenCount": 70,
}
BEDROCK = {
    "inputTokens": 4,
    "outputTokens": 7,
    "totalTokens": 1118,
    "cacheReadInputTokens": 1000,
    "cacheWriteInputTokens": 107,
}


def usage_of(input_tokens: int, output_tokens: int) -> dict[str, int]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "tokens": input_tokens + output_tokens,
    }


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        (XAI, usage_of(32, 103)),
        ({name: XAI[name] for name in XAI if "details" not in name}, usage_of(32, 103)),
        ({name: XAI[name] for name in XAI if name != "total_tokens"}, usage_of(32, 103)),
        ({"input_tokens": 32, "output_tokens": 9, "total_tokens": 135}, usage_of(32, 103)),
        (XAI | {"completion_tokens": 103}, usage_of(32, 103)),
        (SimpleNamespace(**XAI), usage_of(32, 103)),
        (GEMINI, usage_of(23, 47)),
        ({"promptTokenCount": 20, "totalTokenCount": 20}, usage_of(20, 0)),
        (
            SimpleNamespace(prompt_token_count=20, candidates_token_count=7, total_token_count=67),
            usage_of(20, 47),
        ),
        (BEDROCK, usage_of(111, 7)),
        (
            {"inputTokens": 4, "outputTokens": 7, "totalTokens": 1118}
            | {"cacheReadInputTokenCount": 1000, "cacheWriteInputTokenCount": 107},
            usage_of(111, 7),
        ),
        (
            {"inputTokenCount": 4, "outputTokenCount": 7, "invocationLatency": 900}
            | {"cacheReadInputTokenCount": 0, "cacheWriteInputTokenCount": 107},
            usage_of(111, 7),
        ),
        ({"prompt_token_count": 9, "generation_token_count": 2}, usage_of(9, 2)),
        (
            {"input_tokens": 4, "output_tokens": 7, "cache_creation_input_tokens": None}
            | {
                "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 7}
            },
            usage_of(111, 7),
        ),
        (
            {"prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196}
            | {"citation_tokens": 20016, "reasoning_tokens": 73997},
            usage_of(33, 81160),
        ),
        ({"inputTokens": 30, "outputTokens": 9, "totalTokens": 39}, usage_of(30, 9)),
        ({"inputTokens": 0, "outputTokens": 9, "cacheReadInputTokens": 50}, usage_of(0, 9)),
        (
            {"prompt_tokens": 4, "completion_tokens": 635, "total_tokens": 3264}
            | {"prompt_audio_seconds": 203},
            usage_of(2629, 635),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
            | {"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 1},
            usage_of(9, 2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
            | {"input_tokens": 0, "output_tokens": 0},
            usage_of(9, 2),
        ),
        (
            {"type": "tokens", "input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
            usage_of(3, 2),
        ),
    ],
)
def test_reasoning_and_caches_count_where_each_provider_tells_them(
    usage: Any, units: dict[str, int]
) -> None:
    """Beside the output or within it, beside the input or within it; what the total has more is
    output."""
    assert units_of(usage) == units


def test_what_anthropic_spent_on_compaction_counts() -> None:
    """It tells that only in the list of its iterations; its sum has the messages in it."""
    caches = {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    message = {"type": "message", "input_tokens": 20, "output_tokens": 3} | caches
    compaction = {"type": "compaction", "input_tokens": 180, "output_tokens": 30} | caches
    told: dict[str, Any] = {"input_tokens": 20, "output_tokens": 3}
    assert units_of(told | {"iterations": [message, compaction]}) == usage_of(200, 33)
    usage = anthropic.types.beta.BetaUsage.model_validate(told | {"iterations": [compaction]})
    assert units_of(usage) == usage_of(200, 33)


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, {}),
        ({"prompt_tokens": 0, "completion_tokens": 7, "total_tokens": 7}, {"output_tokens": 7}),
        ({"completion_tokens": 7, "total_tokens": 50}, {"output_tokens": 7, "tokens": 50}),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 0}, usage_of(9, 2)),
        ({"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 3}, usage_of(9, 2)),
        ({"input_tokens": 0, "output_tokens": 7}, {"output_tokens": 7}),
        ({"input_tokens": 9, "output_tokens": 0}, {"input_tokens": 9}),
        (anthropic.types.Usage(input_tokens=9, output_tokens=0), {"input_tokens": 9}),
        (anthropic.types.Usage(input_tokens=0, output_tokens=0), {}),
        ({"input_tokens": 0, "cache_read_input_tokens": 5, "output_tokens": 7}, usage_of(0, 7)),
        ({"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}, {}),
        ({"promptTokenCount": 0, "totalTokenCount": 0}, {}),
        ({"type": "duration", "seconds": 7}, {}),
        (SimpleNamespace(type="duration", seconds=7.5), {}),
        ({"tokens": 0, "input_tokens": 0, "output_tokens": 0}, usage_of(0, 0)),
    ],
)
def test_a_zero_that_cannot_be_true_is_not_told(usage: Any, units: dict[str, int]) -> None:
    """No call has an input of 0 unless a cache was read; what callers name by unit is theirs."""
    assert units_of(usage) == units


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        (
            None,
            "usage: must be the usage of a response, or numbers by unit such as",
        ),
        (12, "not 12"),
        ("12", "not '12'"),
        ({}, "not {}"),
        ([("tokens", 12)], "not <class 'list'>"),
        (openai.types.Completion, "not <class '.*'>"),
        ({"cache_read_input_tokens": 5}, "usage: must be the usage"),
        ({"tokens": -1}, r"usage\['tokens'\]: must be a whole number, 0 or more, by unit, not -1"),
        ({"tokens": nan}, "not nan"),
        ({"tokens": inf}, "not inf"),
        ({"tokens": 1.5}, "not 1.5"),
        ({"tokens": True}, "not True"),
        ({"tokens": "12"}, "not '12'"),
        ({"tokens": None}, "not None"),
        ({"tokens": {"input": 1}}, "not {'input': 1}"),
        ({"tokens": Fraction(1, 2)}, r"not Fraction\(1, 2\)"),
        ({"tokens": 2**63}, "not 9223372036854775808"),
        ({"promptEvalCount": 2}, r"usage\['promptEvalCount'\]: is neither a provider's nor a unit"),
        ({"tokensIn": 2, "tokens": 3}, r"usage\['tokensIn'\]"),
        (SimpleNamespace(inputTextTokenCount=3), "usage: must be the usage"),
        ({"inputTokens": -1}, r"usage\['inputTokens'\]"),
        ({"promptTokenCount": "9"}, r"usage\['promptTokenCount'\]"),
        ({1: 2}, r"usage\[1\]"),
        ({"": 2}, r"usage\[''\]"),
        ({"prompt_tokens": -1}, r"usage\['prompt_tokens'\]"),
        ({"input_tokens": "3", "output_tokens": 2}, r"usage\['input_tokens'\]"),
        (SimpleNamespace(total_tokens=nan), "not nan"),
        ({"choices": ["Hi"], "usage": {}}, "not the whole response: pass its usage$"),
        (SimpleNamespace(choices=["Hi"], usage={}), "not the whole response: pass its usage$"),
        ({"output": "Hello! " * 100}, r"not 'Hello! .{1,20}\.\.\..{1,20}'$"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name_and_value(usage: Any, message: str) -> None:
    """The error says which number it was and what is expected."""
    with pytest.raises(InvalidRequest, match=message):
        units_of(usage)
