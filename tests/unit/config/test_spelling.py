"""Guesses at what was meant, as messages show them."""

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlimit_server.config import notation, spelling


def refusal(read: Callable[[str], object], text: str) -> str:
    """The message for a text."""
    with pytest.raises(ValueError, match="expected") as caught:
        read(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "right"),
    [
        *[(f"5/{word}", "5/second") for word in ("s", "sec", "secs", "seconds", "Second")],
        *[(f"5/{word}", "5/minute") for word in ("m", "min", "mins", "minutes", "MINUTE")],
        *[(f"5/{word}", "5/hour") for word in ("h", "hr", "hrs", "hours")],
        *[(f"5/{word}", "5/day") for word in ("d", "days")],
        ("5/week", "5/7d"), ("5/10 seconds", "5/10s"), ("5/60", "5/60s"), ("5/1minute", "5/minute"),
        ("5 per minute", "5/minute"), ("5 a minute", "5/minute"), ("5/per minute", "5/minute"),
        ("5 requests/minute", "5/minute"), ("5 tokens per day", "5/day"), ("5 rpm", "5/minute"),
        ("90k tpm", "90000/minute"), ("10k/minute", "10000/minute"), ("1.5K/min", "1500/minute"),
        ("2M/minute", "2000000/minute"), ("10,000/minute", "10000/minute"),
        ("1_000_000/day", "1000000/day"), ("5-minute", "5/minute"), (" 5/minute", "5/minute"),
        ("5/minute burst 10", "5/minute burst 10s"), ("5/min burst=10 s", "5/minute burst 10s"),
        ("5/minute, burst: 1 min", "5/minute burst 1m"), ("5/day bust 1h", "5/day burst 1h"),
    ],
)  # fmt: skip
def test_a_limit(written: str, right: str) -> None:
    """In other words, with other periods, in thousands, or with a burst in its own way."""
    notation.limit(right)
    assert refusal(notation.limit, written).endswith(f", not {written!r}; write {right}")


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("5", "5s"), ("5 s", "5s"), ("5sec", "5s"), ("5 minutes", "5m"), ("1.5 hours", "1.5h"),
        ("1h30m", "90m"), ("1m 30s", "90s"), ("1w", "7d"), ("1,5s", "1.5s"), ("500 MS", "500ms"),
    ],
)  # fmt: skip
def test_a_duration(written: str, right: str) -> None:
    """Of several parts, in words, or in seconds without saying so."""
    assert refusal(notation.duration, written).endswith(f", not {written!r}; write {right}")


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("50051", "0.0.0.0:50051"), (":50051", "0.0.0.0:50051"), ("*:7", "0.0.0.0:7"),
        ("localhost", "localhost:50051"), ("http://a:7/", "a:7"), ("::1", "[::1]:50051"),
        ("[::1]", "[::1]:50051"), ("::1:50051", "[::1]:50051"), ("ipv4:1.2.3.4:5", "1.2.3.4:5"),
        ("/run/a.sock", "unix:/run/a.sock"), ("unix://a.sock", "unix:a.sock"),
    ],
)  # fmt: skip
def test_an_address(written: str, right: str) -> None:
    """For a URL, a port, a path, or a host alone."""
    assert refusal(notation.address, written).endswith(f", not {written!r}; write {right}")


@pytest.mark.parametrize(
    ("read", "written"),
    [
        (notation.limit, "5/fortnight"), (notation.limit, "5/minute/hour"), (notation.limit, "5"),
        (notation.limit, "1,5/minute"), (notation.limit, "5/minute and more"),
        (notation.limit, "1:30"), (notation.limit, "9/minute burst 0s"), (notation.limit, "5/"),
        (notation.duration, "-5s"), (notation.duration, "PT5M"), (notation.duration, "4000d"),
        (notation.duration, "5 fortnights"), (notation.address, "127.0.0.1:99999"),
        (notation.address, "unix:"), (notation.address, "[::1"), (notation.address, "a b:1"),
    ],
)  # fmt: skip
def test_nothing_is_guessed_that_is_not_clear(read: Callable[[str], object], written: str) -> None:
    """Nor what would be refused as well."""
    assert "; write" not in refusal(read, written)


TEXTS = st.text("0123456789kmMsdhpe/.,_ :-[]*burtinx", max_size=30) | st.text(max_size=120)


@settings(max_examples=60)
@given(TEXTS)
def test_every_guess_can_be_read(text: str) -> None:
    """Whatever was written, there is a message, and what it says to write is right."""
    for read in (
        notation.limit,
        notation.duration,
        notation.address,
        lambda text: notation.whole_number(text, most=1000),
    ):
        with suppress(ValueError):
            read(text)
            continue
        message, ended, guess = refusal(read, text).rpartition(f", not {notation.shown(text)}")
        assert message
        assert ended
        if guess:
            read(guess.removeprefix("; write "))


@given(st.sampled_from(spelling.UNITS), st.data())
def test_a_slip_in_a_unit_is_found(unit: str, data: st.DataObject) -> None:
    """A letter that is too many, missing, wrong, or in its neighbour's place."""
    i = data.draw(st.integers(0, len(unit) - 2))
    letter = data.draw(st.sampled_from("abcxyz_"))
    for slip in (
        unit[:i] + letter + unit[i:],
        unit[:i] + unit[i + 1 :],
        unit[:i] + letter + unit[i + 1 :],
        unit[:i] + unit[i + 1] + unit[i] + unit[i + 2 :],
    ):
        assert spelling.nearest_unit(slip) == unit
