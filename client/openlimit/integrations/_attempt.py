"""One attempt at a call: its reservation, and what the limiter learns from its response."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from http.client import OK, SERVICE_UNAVAILABLE, TOO_MANY_REQUESTS
from typing import Any, Self

from openlimit.decorator import MISPLACED
from openlimit.errors import InvalidRequest, UnknownModel
from openlimit.limiter import RateLimiter
from openlimit.operations import Observe, Penalize
from openlimit.providers import errors as provider_errors
from openlimit.providers import headers as provider_headers
from openlimit.providers.calls import Route, params_of
from openlimit.providers.responses import BodyReader
from openlimit.providers.usage import units_of
from openlimit.reservation import Reservation
from openlimit.tokens.counting import DEFAULT_OUTPUT

Headers = Mapping[str, str]

_log = logging.getLogger(__name__)
_REFUSALS = (TOO_MANY_REQUESTS, SERVICE_UNAVAILABLE, 529)  # Anthropic's own: it is overloaded
_CHARACTERS_PER_TOKEN = 4  # of parameters that cannot be counted
# Of limit alone: a body must not set them.
_OWN = {"tokens", "units", "max_wait", "labels", *MISPLACED}


class Attempt:
    """A call, from its reservation to the end of its response.

    Enter the reservation and make the call. Then ``heard`` takes the head of the response, and
    ``over`` its end. For a request of httpx or httpx2 send it within ``sent``, then call
    ``answered``. If that returns True, the body follows: call ``passed`` for its bytes, set
    ``ended`` after the last of them, and call ``closed`` in any case. Only entering blocks or
    raises, whatever the provider answers.
    """

    def __init__(self, limiter: RateLimiter, reservation: Reservation, *, streams: bool) -> None:
        self.reservation = reservation
        self._limiter = limiter
        self._streams = streams
        self._reader = BodyReader()
        self._status = 0
        self._headers: Headers = {}
        self.ended = self._observed = self._paused = False

    @classmethod
    def of(cls, limiter: RateLimiter, route: Route, body: object) -> Self | None:
        """The attempt that a request makes with these parameters, or bytes; None for no call."""
        if call := params_of(route, body):
            return cls(limiter, reserved(limiter, call.model, call.params), streams=call.streams)
        return None

    @contextmanager
    def sent(self) -> Iterator[None]:
        """Around the sending of the request, which may fail."""
        try:
            yield
        except BaseException:
            self.closed()
            raise

    def answered(self, response: Any) -> bool:
        """Read the head of a response of httpx or httpx2; returns whether its body follows."""
        headers, read = response.headers, response.is_closed
        coded = not read and headers.get("content-encoding", "identity") != "identity"
        self._reader = BodyReader(partial(_decoded, type(response), headers) if coded else None)
        self.heard(response.status_code, headers)
        if read:
            self.passed(response.content)
            self.ended = True
            self.closed()
        return not read

    def passed(self, data: bytes) -> None:
        """Bytes of the body, as they came."""
        with suppress(Exception):  # an odd body must not fail the call: it keeps its charge
            self._reader.feed(data)

    def closed(self) -> None:
        """Reading is over, maybe before the end of the body."""
        usage, error = None, ""
        with suppress(Exception):
            usage, error = self._reader.usage(ended=self.ended), self._reader.error()
        self.over(usage, error)

    def heard(self, status: int, headers: Headers) -> None:
        """The response has begun; status 0 if the call failed without one."""
        self._status, self._headers = status, headers
        self._pause(None)
        # A stream sends its headers at its start: its settlement comes on top of them. A document
        # sends them at its end: they include its actual cost.
        if self._streams or not 200 <= status < 300:
            self._observe()

    def over(self, usage: object, error: str) -> None:
        """The call is over: settle by its usage, if it has one, and free the slot in any case."""
        with suppress(Exception):  # a usage without sense: the charge is kept
            used = {} if usage is None else units_of(usage)
            # A stream has output: if none is given, it is missing.
            if self._streams and not used.get("output_tokens"):
                used = {unit: used[unit] for unit in used if unit == "input_tokens"}
            if used:
                self.reservation.settle(used)
        self.reservation.__exit__(None, None, None)
        self._observe()
        with suppress(Exception):
            self._pause(error)

    def _observe(self) -> None:
        """Pass the remaining limits in the headers to the limiter."""
        if not self._observed:
            self._observed = True
            if left := provider_headers.remaining(self._headers):
                self._tell(Observe(*self._whose, left, self.reservation.labels))

    def _pause(self, error: str | None) -> None:
        """Stop all calls for as long as the response says.

        ``error`` is the error in its body, empty if there is none, None if the body has not come
        yet: a stream that begins with status 200 may still have one.
        """
        if self._paused:
            return
        now, known, error = time.time(), error is not None, error or ""
        refused = self._status in _REFUSALS or provider_errors.is_of_limits(error)
        wait = provider_headers.retry_after(self._headers, now) if refused else None
        if wait is None and (refused or self._status == OK):
            wait = provider_errors.retry_after(error)
        if wait is None and known and refused and not provider_errors.is_of_money(error):
            wait = provider_headers.reset(self._headers, now)
        self._paused = wait is not None
        if wait:
            self._tell(Penalize(*self._whose, wait, self.reservation.labels))

    @property
    def _whose(self) -> tuple[str, str]:
        """The call's model and key."""
        return self.reservation.model, self._limiter._key

    def _tell(self, operation: Observe | Penalize) -> None:
        if self.reservation.wait is not None:  # else it passed unlimited
            self._limiter.tell(operation)


def reserved(limiter: RateLimiter, model: str, params: Mapping[str, Any]) -> Reservation:
    """The reservation for a call with these parameters, not yet entered.

    Parameters that cannot be counted are charged by their length; the provider may accept them.
    """
    counted = {name: value for name, value in params.items() if name not in _OWN}
    try:
        return limiter.limit(**counted)
    except Exception:  # whatever it is, the call is made
        tokens = DEFAULT_OUTPUT
        with suppress(RecursionError):
            tokens += -(-len(str(params)) // _CHARACTERS_PER_TOKEN)
        return limiter.limit(model=model, tokens=tokens)


def enter(reservation: Reservation) -> None:
    """Wait for the start of a call that an SDK makes."""
    with _going_on_without(reservation.model):
        reservation.__enter__()


async def aenter(reservation: Reservation) -> None:
    """``enter`` for event loops."""
    with _going_on_without(reservation.model):
        await reservation.__aenter__()


@contextmanager
def _going_on_without(model: str) -> Iterator[None]:
    """Let calls pass unlimited that the limiter cannot take: the provider may accept them."""
    try:
        yield
    except (InvalidRequest, UnknownModel) as error:
        # Not where the configuration is wrong: no policy covers the model, or no server is there.
        if model if isinstance(error, UnknownModel) else error.field == "address":
            raise
        _warn(model, str(error))


@lru_cache(maxsize=256)
def _warn(model: str, reason: str) -> None:
    """Once for each model and reason."""
    of = f"of {model[:100]!r}" if model else "that name no model, neither in body nor path,"
    _log.warning("calls %s pass unlimited: %s", of, reason)


def _decoded(response: type[Any], headers: Headers, body: bytes) -> Iterator[bytes]:
    pieces: Iterator[bytes] = response(200, headers=headers, content=iter([body])).iter_bytes()
    return pieces
