"""One attempt at the provider: its reservation, and what its response teaches the limiter."""

import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http.client import TOO_MANY_REQUESTS
from typing import Any, Self

from openlimit.errors import InvalidRequest
from openlimit.integrations import provider_headers
from openlimit.integrations.response_usage import UsageReader, reader_of
from openlimit.rate_limiter import RateLimiter
from openlimit.reservation import Reservation

__all__ = ["Attempt", "heed", "reserved"]

# OpenAI's threads have messages as well, at another place than Anthropic's.
_LIMITED = re.compile(r"/(chat/completions|completions|embeddings|responses|v\d+/messages)/?$")


class Attempt:
    """A request and its response, up to the end of its body.

    Enter ``reservation``, send the request, then call ``answered`` and, unless that says that the
    body is at hand, ``passed`` for its bytes, ``ended`` after the last of them, and ``closed`` in
    any case; only ``closed`` where there is no response. None of them blocks or raises, whatever
    the provider answers.

    ``streams`` says whether the response is asked for as events. They can only be read along if
    they are not compressed: ``accept-encoding: identity``.
    """

    __slots__ = ("_ended", "_heed", "_limiter", "_reader", "reservation", "streams")

    def __init__(self, limiter: RateLimiter, reservation: Reservation, *, streams: bool) -> None:
        self.reservation = reservation
        self.streams = streams
        self._limiter = limiter
        self._reader: UsageReader | None = None
        self._ended = False
        self._heed: Callable[[], None] = _nothing

    @classmethod
    def of(cls, limiter: RateLimiter, method: str, path: str, body: object) -> Self | None:
        """The attempt that a request makes; None for one that is not to be limited.

        `body` is the parameters, or the bytes as sent. Limited is what is posted to
        ``…/chat/completions``, ``…/completions``, ``…/embeddings``, ``…/responses`` and
        ``…/v1/messages``.
        """
        if method.upper() != "POST" or not _LIMITED.search(path):
            return None
        params = _parsed(body) if isinstance(body, bytes) else body
        if not isinstance(params, Mapping) or not isinstance(model := params.get("model", ""), str):
            return None
        reservation = reserved(limiter, model, params)
        return cls(limiter, reservation, streams=params.get("stream") is True)

    def answered(self, response: Any) -> bool:
        """Heed the head of a response of httpx or httpx2; whether its body is to follow."""
        headers, read = response.headers, response.is_closed
        self._heed = partial(
            heed, self._limiter, self.reservation.model, response.status_code, headers
        )
        if self.streams or not response.is_success:
            self._heed_once()
        if response.is_success:
            coded = not read and headers.get("content-encoding", "identity") != "identity"
            decode = partial(_decoded, type(response), headers) if coded else None
            self._reader = reader_of(headers.get("content-type", ""), decode)
        if read:
            self.passed(response.content)
            self.ended()
            self.closed()
        return not read

    def passed(self, data: bytes) -> None:
        """Bytes of the body, as they came."""
        if self._reader:
            self._reader.feed(data)

    def ended(self) -> None:
        """The body has come to its own end."""
        self._ended = True

    def closed(self) -> None:
        """Nobody reads on: settle if the usage is known, and free the slot in any case."""
        with suppress(Exception):  # an odd body or number fails no call: the charge is kept
            usage = self._reader and self._reader.usage(ended=self._ended)
            self.reservation.settle(usage or None)
        self.reservation.__exit__(None, None, None)
        self._heed_once()

    def _heed_once(self) -> None:
        """A stream's headers are of its start, and its settlement comes on top of what they say.

        A document's are of its end: what they say remains has its real cost in it already.
        """
        self._heed()
        self._heed = _nothing


def reserved(limiter: RateLimiter, model: str, params: Mapping[str, Any]) -> Reservation:
    """The reservation, to be entered, for a call with these parameters.

    Those that cannot be counted are for the provider to judge: they are charged as one request,
    and as tokens once the call is settled.
    """
    counted = {name: value for name, value in params.items() if name not in {"tokens", "units"}}
    try:
        return limiter.limit(**counted)
    except InvalidRequest:
        return limiter.limit(model=model, tokens=0)


def heed(limiter: RateLimiter, model: str, status: int, headers: Mapping[str, str]) -> None:
    """Tell the limiter what a response says of the provider's own limits."""
    if left := provider_headers.remaining(headers):
        limiter.observe(left, model)
    if status == TOO_MANY_REQUESTS:
        wait = provider_headers.retry_after(headers, time.time())
        if wait:
            limiter.penalize(wait, model)


def _nothing() -> None:
    """There is nothing to heed, or no more."""


def _decoded(response: type[Any], headers: Mapping[str, str], body: bytes) -> bytes:
    content: bytes = response(200, headers=headers, content=body).content
    return content


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
