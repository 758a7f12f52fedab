"""Headers of providers: what they say is read, what makes no sense is not."""

import pytest

from openlimit.providers.headers import remaining, reset, retry_after

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({}, {}),
        (
            {
                "x-ratelimit-limit-requests": "120",
                "x-ratelimit-remaining-requests": "3",
                "x-ratelimit-remaining-tokens": "171",
                "x-ratelimit-reset-tokens": "290ms",
            },
            {"requests": 3, "tokens": 171},
        ),
        ({"X-RateLimit-Remaining-Tokens": "0"}, {"tokens": 0}),
        (
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "49",
                "anthropic-ratelimit-requests-reset": "2026-11-24T23:34:00Z",
                "anthropic-ratelimit-tokens-remaining": "9000",
                "anthropic-ratelimit-input-tokens-remaining": "7000",
                "anthropic-ratelimit-output-tokens-remaining": "2000",
            },
            {"requests": 49, "tokens": 9000, "input_tokens": 7000, "output_tokens": 2000},
        ),
        ({"x-ratelimit-remaining-tokens": " 1.5 "}, {"tokens": 1.5}),
    ],
)
def test_what_is_left_is_read_by_unit(headers: dict[str, str], left: dict[str, float]) -> None:
    """OpenAI's, Azure's and Anthropic's names, in upper or lower case."""
    assert remaining(headers) == left


@pytest.mark.parametrize(
    "value",
    ["", "-1", "nan", "inf", "1e9", "9" * 18, "9" * 400, "12, 13", "many", "٣", "1."],
)
def test_what_is_no_sensible_number_is_left_out(value: str) -> None:
    """Neither a negative nor an absurd number nor anything else changes a bucket."""
    headers = {"x-ratelimit-remaining-tokens": value, "x-ratelimit-remaining-requests": "3"}
    assert remaining(headers) == {"requests": 3}
    assert retry_after({"retry-after": value, "retry-after-ms": value}, NOW) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"Retry-After": "0.25"}, 0.25),
        ({"retry-after-ms": "580", "retry-after": "1"}, 0.58),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "86400"}, 86400),
        ({"retry-after": "604800"}, 86400),
        ({"retry-after-ms": "99999999999"}, None),
        ({"retry-after": "1700000000"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 23:13:50 +0100"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:10 GMT"}, 0),
        ({"retry-after": "Tue, 21 Nov 2023 22:13:10 GMT"}, 86400),
        ({"retry-after": "Tue, 14 Nov 2033 22:13:10 GMT"}, None),
        (
            {
                "Date": "Tue, 14 Nov 2033 22:13:01 GMT",
                "retry-after": "Tue, 14 Nov 2033 22:13:10 GMT",
            },
            9,
        ),
        ({"date": "long ago", "retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),
        ({"retry-after": "Tue, 99 Nov 99999999999 22:13:10 GMT"}, None),
        ({"retry-after": "in 5 minutes"}, None),
    ],
)
def test_the_wait_is_read_in_milliseconds_else_seconds_or_as_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Beyond a day it counts as a day, which a policy may shorten; beyond a year it is no wait."""
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360),
        ({"X-RateLimit-Reset-Requests": "17ms"}, 0.017),
        ({"x-ratelimit-reset-tokens": "21"}, 21),
        ({"x-ratelimit-reset-tokens": "1s", "x-ratelimit-reset-requests": "8.64s"}, 8.64),
        (
            {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s"}
            | {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "8s"},
            1,
        ),
        (
            {"x-ratelimit-remaining-tokens": "4", "x-ratelimit-reset-tokens": "1s"}
            | {"x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "8s"},
            8,
        ),
        ({"anthropic-ratelimit-input-tokens-reset": "2023-11-14T22:13:50Z"}, 30),
        ({"anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:10Z"}, 0),
        ({"anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:50"}, None),
        ({"x-ratelimit-reset-tokens": "25h"}, None),
        ({"x-ratelimit-reset-tokens": "soon", "x-ratelimit-reset-requests": "-1s"}, None),
        ({"x-ratelimit-reset": "1700000000000"}, None),
    ],
)
def test_the_reset_is_that_of_what_is_used_up(
    headers: dict[str, str], seconds: float | None
) -> None:
    """Where nothing is, that of the last to have room again."""
    assert reset(headers, NOW) == (seconds if seconds is None else pytest.approx(seconds))
