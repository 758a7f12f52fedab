"""Request bodies: read strictly, counted as the library counts."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit import ChatRateLimiter, InvalidRequest, count_tokens
from openlimit_server.counting.bodies import count_body
from tests.support.bodies import CALLS, LARGE, REFUSED, SECRET

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["type", "content"]), inner)
    ),
    max_leaves=20,
)
names = st.sampled_from(
    [
        "model",
        "messages",
        "prompt",
        "input",
        "instructions",
        "tools",
        "n",
        "max_tokens",
        "dimensions",
        "system",
        "text",
    ]
)


@pytest.mark.parametrize("params", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("escaped", [True, False])
def test_a_body_costs_what_the_library_counts(params: dict[str, Any], escaped: bool) -> None:
    """For every kind of call, with the model that it names, however its text is written."""
    body = json.dumps(params, ensure_ascii=escaped).encode()
    counted = count_body(body, "")
    assert counted.model == params["model"]
    assert {"requests": 1, **counted.costs} == ChatRateLimiter().limit(**params).costs
    assert counted.costs["tokens"] == count_tokens(**params) > 0


def test_a_model_that_is_given_counts_before_that_of_the_body() -> None:
    """As where a deployment has a name of its own."""
    params = CALLS["chat"]
    counted = count_body(json.dumps({**params, "model": "prod"}).encode(), "gpt-4")
    assert counted.model == "gpt-4"
    assert counted.costs["tokens"] == count_tokens(**{**params, "model": "gpt-4"})
    with pytest.raises(InvalidRequest, match=r"^model: must have at most 256 bytes"):
        count_body(json.dumps(params).encode(), "x" * 257)
    nameless = count_body(json.dumps({**params, "model": None}).encode(), "")
    assert nameless.model == ""


def test_a_call_without_a_maximum_leaves_its_output_to_the_policy() -> None:
    """It has no output tokens; one that cannot write has 0."""
    assert "output_tokens" not in count_body(json.dumps(CALLS["chat"]).encode(), "").costs
    assert count_body(json.dumps(CALLS["embedding"]).encode(), "").costs["output_tokens"] == 0


@pytest.mark.parametrize(("body", "field"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_counted_is_refused_by_name(body: bytes, field: str) -> None:
    """In a short sentence that repeats nothing of what its caller wrote."""
    with pytest.raises(InvalidRequest) as refused:
        count_body(body, "")
    assert refused.value.field == field
    assert SECRET not in str(refused.value)
    assert 5 < len(str(refused.value)) < 200


@pytest.mark.parametrize("body", LARGE.values(), ids=LARGE)
def test_what_is_large_is_counted(body: bytes) -> None:
    """Whatever it is made of."""
    assert 800_000 < len(body) < 1_000_000
    assert count_body(body, "").costs["tokens"] > 0


@given(params=st.dictionaries(names, json_values), model=st.text(max_size=20))
def test_any_body_is_counted_as_locally_or_refused(params: dict[str, Any], model: str) -> None:
    """No JSON raises anything else."""
    body = json.dumps(params).encode()
    try:
        counted = count_body(body, model)
    except InvalidRequest:
        return
    assert counted.costs["tokens"] == count_tokens(**{**params, "model": counted.model})
    assert min(counted.costs.values()) >= 0


@given(body=st.binary(max_size=50))
def test_bytes_are_no_call(body: bytes) -> None:
    """Random ones are refused."""
    with pytest.raises(InvalidRequest):
        count_body(body, "gpt-4o")
