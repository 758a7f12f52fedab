"""Errors of providers: how long they ask to wait is read, other numbers are not."""

import json

import pytest

from openlimit.providers.errors import is_of_limits, is_of_money, retry_after, seconds


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        ("", None),
        ("Rate limit reached for gpt-4o: Limit 30000. Please try again in 1.2s. Visit", 1.2),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 17ms.", 0.017),
        ("Please try again in 1h2m3.5s", 3723.5),
        ("Please retry after 6 seconds.", 6),
        ("please RETRY AFTER 1 Second", 1),
        ("Please retry in 34.074824224s.", 34.074824224),
        ("try again in 5 minutes", 300),
        ("Please try again in 86400 seconds", 86400),
        ("Please try again in 25 hours", 86400),
        ("Please try again in 9 moons", None),
        ("Please try again in 9", None),
        ("Please try again later; the limit is 20s", None),
        (json.dumps({"error": {"details": [{"retryDelay": "34s"}]}}), 34),
        (json.dumps(json.dumps({"retryDelay": "34.5s"})), 34.5),
        ('{"retryDelay": "-1s"}', None),
        ('{"retryDelay": "99999999s"}', None),
        ("try again in " + "9" * 400 + "s", None),
    ],
)
def test_the_wait_is_read_from_details_and_sentences(error: str, wait: float | None) -> None:
    """As Gemini, OpenAI, Azure and Groq have it; more than a day counts as a day."""
    assert retry_after(error) == (wait if wait is None else pytest.approx(wait))


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        *[("1s", 1), ("6m0s", 360), (" 17ms ", 0.017), ("1h", 3600), ("2m59.56s", 179.56)],
        *[("", None), ("s", None), ("1", None), ("-1s", None), ("1x", None), ("1s!", None)],
    ],
)
def test_durations_are_read_whole(text: str, duration: float | None) -> None:
    """As OpenAI's headers have them."""
    assert seconds(text) == (duration if duration is None else pytest.approx(duration))


@pytest.mark.parametrize(
    ("error", "limits", "money"),
    [
        ('{"code": "rate_limit_exceeded"}', True, False),
        ('{"type": "rate_limit_error"}', True, False),
        ('{"type": "overloaded_error"}', True, False),
        ('{"code": 429, "status": "RESOURCE_EXHAUSTED"}', True, False),
        ('{"code": 429}', True, False),
        ('{"code": "429"}', True, False),
        ('{"message": "Too many requests"}', True, False),
        ("ThrottlingException", True, False),
        ('{"code": "insufficient_quota"}', False, True),
        ('{"code": "server_error", "message": "request 4290"}', False, False),
        ("", False, False),
    ],
)
def test_errors_of_limits_are_told_from_others(error: str, limits: bool, money: bool) -> None:
    """By the words that each provider has for them."""
    assert (is_of_limits(error), is_of_money(error)) == (limits, money)
