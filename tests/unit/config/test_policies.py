"""Policies: what a file of them means, and what follows from a policy alone."""

from math import isfinite
from pathlib import Path

import pytest
from pydantic import ValidationError

from openlimit import ChatRateLimiter, CompletionRateLimiter, EmbeddingRateLimiter
from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import InvalidRequest
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.policies import PolicySettings

GOOD = """
policies:
  - name: gpt-4o
    models: ["gpt-4o", "gpt-4o-*"]
    limits: {requests: [10000/minute, 500000/day], tokens: 2000000/minute burst 5s}
  - name: everything-else
    models: ["*"]
    split_by: [model, key]
    limits: {requests: 3500/minute, tokens: 90000 / 1m, images: 1.5/10s burst 1h}
    max_wait: 500ms
    concurrent: 50
    lease: 1m
    reserve_output: learned
    default_output: 600
    max_pause: 2h
"""


def policy(**fields: object) -> PolicySettings:
    """A policy for all models, with these fields besides."""
    return PolicySettings.model_validate({"name": "a", "models": ["*"], **fields})


def test_a_file_of_policies(file: Path) -> None:
    """Amounts, periods, bursts and durations mean what they say, in seconds."""
    file.write_text(GOOD)
    first, second = ConfigurationFiles(file).load().policies
    assert first.models == ("gpt-4o", "gpt-4o-*")
    assert first.limits == (
        Limit.per("requests", 10000, 60),
        Limit.per("requests", 500000, 86400),
        Limit.per("tokens", 2000000, 60, 5),
    )
    assert (first.split_by, first.max_wait) == ((), None)
    assert second.split_by == ("model", "key")
    assert second.limits == (
        Limit.per("requests", 3500, 60),
        Limit.per("tokens", 90000, 60),
        Limit.per("images", 1.5, 10, 3600),
    )
    assert second.max_wait == 0.5
    assert (first.concurrent, second.concurrent, second.lease) == (None, 50, 60)
    assert (first.reserve_output, second.reserve_output) == ("max_tokens", "learned")
    assert (first.default_output, second.default_output) == (1000, 600)
    assert (first.max_pause, second.max_pause) == (3600, 7200)


def test_without_a_file_the_seeds_defaults_are_served() -> None:
    """Every model is covered, with the amounts of the local limiters and a bucket of its own."""
    policies = ConfigurationFiles(None).load().policies
    local = {
        "chat": ChatRateLimiter(),
        "completion": CompletionRateLimiter(),
        "embedding": EmbeddingRateLimiter(),
    }
    assert {policy.name: policy.limits for policy in policies} == {
        name: (
            Limit.per("requests", limiter.request_limit, 60),
            Limit.per("tokens", limiter.token_limit, 60),
        )
        for name, limiter in local.items()
    }
    assert all(policy.split_by == ("model",) for policy in policies)
    assert policies[-1].models == ("*",)


def test_the_largest_limit_can_be_served() -> None:
    """The bounds themselves are good, with the shortest and the longest of durations."""
    largest = policy(limits={"tokens": "1000000000000000/1ms burst 3650d", "a": "1/3650d"})
    assert largest.limits == (
        Limit.per("tokens", 1e15, 0.001, 315_360_000),
        Limit.per("a", 1, 315_360_000),
    )
    assert all(isfinite(limit.capacity) for limit in largest.limits)


def test_a_mapping_takes_over_another(file: Path) -> None:
    """With <<, in the other's order; its own fields win."""
    shared = "name: a\n    models: [x]\n    limits: &l {b: 9/day, c: 8/day}"
    other = "name: b\n    limits: {<<: *l, d: 9/day, b: 7/day}"
    file.write_text(f"policies:\n  - &a\n    {shared}\n  - <<: *a\n    {other}\n")
    first, second = ConfigurationFiles(file).load().policies
    amounts = [[(limit.unit, limit.amount) for limit in each.limits] for each in (first, second)]
    assert amounts == [[("b", 9), ("c", 8)], [("d", 9), ("b", 7), ("c", 8)]]
    assert (first.models, second.models, second.name) == (("x",), ("x",), "b")


def test_units_of_an_own_kind_can_be_limited() -> None:
    """However much they look like others."""
    units = ["images", "image_tokens", "characters", "audio_seconds", "usd", "tickets", "cells"]
    assert [*policy(limits=dict.fromkeys(units, "9/day")).units] == units


def test_each_limit_has_its_unit() -> None:
    """In the limits' order, one for each of several limits of a unit."""
    given = policy(limits={"tokens": ["9/minute", "9/day"], "a": "9/minute"})
    assert [limit.unit for limit in given.limits] == ["tokens", "tokens", "a"]
    assert given.units == ("tokens", "tokens", "a")


def test_a_providers_remainder_is_for_the_shortest_period_of_a_unit() -> None:
    """What remains of a day says nothing of what remains of a minute."""
    given = policy(limits={"tokens": ["9/day", "9/minute"], "a": "9/hour"})
    assert given.observed == ("", "tokens", "a")


@pytest.mark.parametrize(
    ("given", "default", "longest"),
    [({}, 86_400, 86_400), ({"max_wait": "5s"}, 5, 86_400), ({"max_wait": "2d"}, 172_800, 172_800)],
)
def test_waits_are_bounded(given: dict[str, str], default: int, longest: int) -> None:
    """By a day, or by the policy's own maximum where that is more."""
    bounds = policy(limits={"a": "9/day"}, **given)
    assert (bounds.default_wait, bounds.longest_wait) == (default * SECOND, longest * SECOND)


def test_costs_that_no_call_can_have_are_refused() -> None:
    """Twice the smallest limit of a unit, or what leaks in a day; the parts of tokens as tokens."""
    given = policy(limits={"tokens": ["1000/day", "10/minute"], "a": "5/day"})
    parts = {"input_tokens": 2000, "output_tokens": 2000}
    assert given.most_used == {"tokens": 2000, "a": 10, **parts}
    given.require_sensible({"tokens": 2000, "a": 10, "of_no_limit": 2**63 - 1})
    with pytest.raises(InvalidRequest, match=r"^tokens: must be at most 2000, twice its limit"):
        given.require_sensible({"tokens": 2001})
    with pytest.raises(InvalidRequest, match=r"^units\.a: must be at most 10, .* not 11"):
        given.require_sensible({"a": 11})


def test_a_policy_says_whether_calls_start_without_the_store() -> None:
    """They do not, unless that is asked for."""
    limits = {"a": "9/day"}
    assert not policy(limits=limits).allows_without_store
    assert policy(limits=limits, on_store_failure="allow").allows_without_store


def test_a_policy_is_frozen() -> None:
    """Rules are swapped as a whole, never edited."""
    with pytest.raises(ValidationError, match="frozen"):
        policy(limits={"a": "9/day"}).name = "b"
