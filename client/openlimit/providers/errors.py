"""What providers say about their own limits in their errors. Pure.

Gemini: ``google.rpc.RetryInfo`` with a ``retryDelay``. OpenAI, Azure, Groq and others: a sentence
such as "Please try again in 1.2s". Errors are texts here: JSON, or the message of an exception.
"""

import re

DAY = 86400  # seconds: no pause takes longer, whatever a provider says
_NUMBER = r"\d{1,15}(?:\.\d{1,18})?"
_AMOUNT = re.compile(
    rf"({_NUMBER})\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hours?|d|days?)(?![a-z])",
    re.ASCII | re.IGNORECASE,
)
_DURATION = rf"((?:{_AMOUNT.pattern}\s*)+)"
_ALL = re.compile(_DURATION, _AMOUNT.flags)
_SENTENCE = re.compile(rf"(?:try again|retry)\s+(?:in|after)\s+{_DURATION}", _AMOUNT.flags)
_RETRY_DELAY = re.compile(rf"retryDelay[^\w-]{{1,12}}({_NUMBER})s", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LIMITS = re.compile(
    r"rate.?limit|overloaded|resource.?exhausted|too.?many.?requests|throttl|\bcode\W{1,4}429\b",
    re.IGNORECASE,
)


def is_of_limits(error: str) -> bool:
    """Whether the error says that there were too many calls or tokens."""
    return bool(_LIMITS.search(error))


def is_of_money(error: str) -> bool:
    """Whether the error says that there is no money left, which no waiting changes."""
    return "insufficient_quota" in error


def retry_after(error: str) -> float | None:
    """Seconds until the provider accepts the next call, at most a day; None: it does not say."""
    if delay := _RETRY_DELAY.search(error):
        return believed(float(delay[1]))
    sentence = _SENTENCE.search(error)
    return believed(_sum(sentence[1])) if sentence else None


def believed(wait: float) -> float | None:
    """At most a day; None for more than a year, which is a time rather than a duration."""
    return min(wait, DAY) if wait <= 365 * DAY else None


def seconds(text: str) -> float | None:
    """A duration such as ``1s``, ``6m0s`` or ``17ms``; None for anything else."""
    return _sum(text) if _ALL.fullmatch(text.strip()) else None


def _sum(durations: str) -> float:
    return sum(
        float(number) * _SECONDS["ms" if unit.startswith(("ms", "mil")) else unit[0]]
        for number, unit in _AMOUNT.findall(durations.lower())
    )
