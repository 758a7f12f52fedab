"""The nearest right spelling of a text that was mistyped or is written for another tool.

These are guesses, for messages only. The text is known to be wrong; check a guess before you show
it.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv6Address, ip_address
from math import isfinite

_OTHER_WORDS = {
    "requests": ("req", "reqs", "call", "calls", "rps", "rpm", "rph", "rpd", "request"),
    "tokens": ("tok", "toks", "total_tokens", "tps", "tpm", "tph", "tpd", "token"),
    "input_tokens": ("input", "itps", "itpm", "itph", "itpd", "prompt_tokens"),
    "output_tokens": ("output", "otps", "otpm", "otph", "otpd", "completion_tokens"),
}
UNITS = tuple(_OTHER_WORDS)
"""Units that calls cost without naming them; callers name all others."""
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
"""By the letters of a duration's unit."""
PERIODS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
"""What a limit calls one of such a unit."""
_TIMES = {word: (1, word) for word in SECONDS}
_TIMES |= {word: (1, letter) for letter, word in PERIODS.items()}
_TIMES |= {"msec": (1, "ms"), "millisecond": (1, "ms"), "sec": (1, "s"), "min": (1, "m")}
_TIMES |= {"hr": (1, "h"), "w": (7, "d"), "week": (7, "d"), "month": (30, "d")}
_TIMES |= {"y": (365, "d"), "year": (365, "d")}
_MULTIPLES = {"": 1, "k": 1000, "thousand": 1000, "m": 10**6, "million": 10**6}
_AMOUNT = r"\s*(\d[\d.,_ ]*)\s*(k|m|thousand|million|)\s*"
_NUMBER = re.compile(_AMOUNT)
_LIMIT = re.compile(
    _AMOUNT + r"[a-z_]*?\s*(?:/|\bper\b|\ban?\b|[:\-\\](?!\d)|(?<=[rt])p(?=[smhd]\b))\s*"
    r"(?:per\b)?\s*(\d+\s*[a-z]*|[a-z]+)(?:\W+b[a-z]*t\W+(.+))?\s*"
)
_DURATION = re.compile(r"(\d+(?:[.,]\d+)?)\s*([a-z]*)[\s,]*")
_SCHEME = re.compile(r"(?:https?|grpcs?|tcp)://|ipv[46]:|dns:(?:///)?")
_PER_PERIOD = re.compile(r"(.+)_per_(?:second|minute|hour|day)")
_SHORTEST_TO_CORRECT = 6  # letters: shorter words are one edit from too many others


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one, if any does."""
    return next(iter(get_close_matches(word.lower(), known, 1)), None)


def nearest_unit(name: str) -> str | None:
    """The known unit that a name means, possibly misspelt; None for a unit of its own kind.

    One edit, upper case, a hyphen, or another tool's word such as ``rpm`` counts as misspelt. More
    does not, since units such as ``image_tokens`` must stay possible.
    """
    name = name.lower().replace("-", "_")
    if match := _PER_PERIOD.fullmatch(name):
        name = match[1]
    for unit, others in _OTHER_WORDS.items():
        for word in (unit, *others):
            if name == word or (len(word) >= _SHORTEST_TO_CORRECT and _is_one_edit(name, word)):
                return unit
    return None


def _is_one_edit(one: str, other: str) -> bool:
    """Whether inserting, dropping or replacing a letter, or swapping two, makes one the other."""
    short, long = sorted((one, other), key=len)
    if len(long) - len(short) > 1:
        return False
    i = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if len(short) < len(long):
        return short[i:] == long[i + 1 :]
    swapped = short[i + 1 : i + 2] + short[i : i + 1] + short[i + 2 :]
    return short[i + 1 :] == long[i + 1 :] or swapped == long[i:]


def number(text: str) -> str | None:
    """Digits for a whole number such as 10k, 1_000 or 1e3."""
    match = _NUMBER.fullmatch(_tidy(text))
    try:
        value = float(_plain(match[1])) * _MULTIPLES[match[2]] if match else float(text)
    except ValueError:
        return None
    return f"{int(value)}" if isfinite(value) and value.is_integer() else None


def duration(text: str) -> str | None:
    """One number and its unit for a text such as 5 minutes, 1h30m or 5 (seconds)."""
    text = _tidy(text)
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text):
        return None
    total, letters = 0.0, []
    for amount, word in parts:
        several, letter = _TIMES.get(word or "s") or _TIMES.get(word.removesuffix("s"), (0, ""))
        if not letter:
            return None
        total += float(amount.replace(",", ".")) * several * SECONDS[letter]
        letters.append(letter)
    smallest = min(letters, key=SECONDS.__getitem__)
    return f"{total / SECONDS[smallest]:.10g}{smallest}"


def limit(text: str) -> str | None:
    """An amount, its period and its burst for a text such as 10k per min or 5 requests/minutes."""
    match = _LIMIT.fullmatch(_tidy(text))
    if not match:
        return None
    amount, multiple, period, burst = match.groups()
    period = period if period[:1].isdigit() else f"1{period}"
    written = duration(period)
    try:
        amount = f"{float(_plain(amount)) * _MULTIPLES[multiple]:.15g}"
    except ValueError:
        return None
    if not written:
        return None
    if written[:1] == "1":
        written = PERIODS.get(written[1:], written)
    return f"{amount}/{written}" + (f" burst {duration(burst)}" if burst else "")


def address(text: str) -> str | None:
    """A host and port, or a socket, for a URL, a port, a path or a host alone."""
    text = _SCHEME.sub("", text.strip(), count=1).rstrip("/")
    if text.startswith(("/", "unix:")):
        return f"unix:{text.removeprefix('unix:').removeprefix('//')}"
    if text.isdecimal():
        text = f":{text}"
    has_port = ":" in text and not text.endswith("]") and not _is_ipv6(text)
    host, _, port = text.rpartition(":") if has_port else (text, "", "")
    if host in ("", "*"):
        host = "0.0.0.0"
    elif ":" in host and "[" not in host:
        host = f"[{host}]"
    return f"{host}:{port or 50051}"


def store(text: str) -> str | None:
    """The URL of a store, for its scheme in capitals, a host and port, or memory alone."""
    if re.fullmatch(r"memory:?/*", text, re.IGNORECASE):
        return "memory://"
    scheme, colon, _ = text.partition("://")
    if colon and scheme.lower() != scheme:
        return f"{scheme.lower()}://…"
    return f"redis://{text}" if re.fullmatch(r"[\w.-]+:\d{1,5}", text) else None


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv6Address)
    except ValueError:
        return False


def _tidy(text: str) -> str:
    """Lower case, with single spaces: the patterns are slow on long runs of them."""
    return " ".join(text.lower().split())


def _plain(amount: str) -> str:
    """Without separators of thousands."""
    return re.sub(r"(?<=\d)[,_ ](?=\d{3}(?!\d))", "", amount.strip())
