"""Who calls: callers are known by their API keys, and their work carries the labels of these."""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from hmac import compare_digest
from math import inf
from typing import Any
from urllib.parse import unquote

import grpc
from grpc.aio import ServicerContext

from openlimit.context import MOST_LABELS
from openlimit.errors import InvalidRequest, OpenLimitError, PermissionDenied, shown
from openlimit.operations import IDENTITY, Labels, Observe, Penalize
from openlimit.wire.fields import AUTHORIZATION, BEARER
from openlimit_server.config.keys import KeySettings, Right, hash_of
from openlimit_server.engine.engine import Work
from openlimit_server.rpc.connections import peer_of
from openlimit_server.rpc.tarpit import Tarpit
from openlimit_server.rpc.turns import Turns

_REPORTS_OF_PROVIDERS = {Penalize, Observe}
# What no caller that is right gets often.
_FAULTS = {
    *(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED),
    *(grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED),
}
_FOUND_BY = 8  # bytes of a hash; all of them are compared in a time that tells nothing
_REMEMBERED = 1024  # labels of a caller, and addresses
_LOG_EVERY = 10.0  # seconds
_MISSING = (
    "the server answers only callers with an API key: pass api_key, or set OPENLIMIT_API_KEY; "
    "without openlimit's client, send the metadata authorization: Bearer KEY"
)
_UNKNOWN = "the server does not know this API key: it is mistyped, or it was revoked"

_log = logging.getLogger("openlimit")


class Caller:
    """Whoever has one of the keys."""

    def __init__(self, settings: KeySettings) -> None:
        self.digest = settings.digest
        self.name = settings.name
        self._may = settings.may
        self._fixed = settings.labels
        self._own = lru_cache(_REMEMBERED)(self._find_own)

    def require(self, right: Right) -> None:
        """Raises PermissionDenied for what it may not do."""
        if right not in self._may:
            advice = f"add {right} to its may: in the server's file of keys"
            raise PermissionDenied(self.name, f"may not {right}; if it should, {advice}")

    def admitted(self, work: Work) -> Work:
        """The work, with this caller's labels; or an error, for what it may not ask."""
        if isinstance(work, OpenLimitError):
            return work
        try:
            self.require("penalize" if type(work) in _REPORTS_OF_PROVIDERS else "acquire")
            key, labels = self._own(work.key, work.labels)
        except OpenLimitError as error:
            return error
        return work._replace(key=key, labels=labels)

    def with_fixed(self, claimed: Mapping[str, str]) -> dict[str, str]:
        """The labels of a call that claims these, with those that the key fixes; raises
        PermissionDenied."""
        labels = dict(claimed)
        for name, value in self._fixed.items():
            if labels.setdefault(name, value) != value:
                raise PermissionDenied(
                    self.name,
                    f"is for {name}={value}, and its call claims {shown(labels[name])}; leave "
                    f"{name} out, or use a key that is for it",
                )
        return labels

    def _find_own(self, key: str, claimed: Labels) -> tuple[str, Labels]:
        """Key and labels of a call that claims these; raises PermissionDenied."""
        labels = self.with_fixed({**dict(claimed), "key": key} if key else dict(claimed))
        key = labels.pop("key", "")
        if len(labels) > MOST_LABELS:
            beside = f"beside those of the API key {self.name}"
            raise InvalidRequest("labels", f"must be at most {MOST_LABELS} {beside}")
        # Nobody can claim the name: so nobody else can settle what this caller has reserved.
        return key, ((IDENTITY, self.name), *sorted(labels.items()))


def _authorization(context: ServicerContext[Any, Any]) -> str:
    said = next((v for k, v in context.invocation_metadata() or () if k == AUTHORIZATION), "")
    return said if isinstance(said, str) else ""


def _is_key(said: str) -> bool:
    return said[: len(BEARER)].lower() == BEARER.lower()


def name_of(caller: Caller | None, context: ServicerContext[Any, Any]) -> str:
    """Under which a caller gets its share: its key, or the address of one that is not known."""
    return f"the key {caller.name}" if caller else _address(context.peer().rpartition(":")[0])


@lru_cache(_REMEMBERED)
def _address(peer: str) -> str:
    """Of IPv4; or a network of IPv6, since one client usually has all of its addresses."""
    family, _, host = peer.partition(":")
    return f"ipv6:{peer_of(unquote(host).strip('[]'))}" if family == "ipv6" else peer


class Door:
    """Knows the callers; without keys nobody, and everybody may do all. Lets them in by turns."""

    def __init__(self, keys: Iterable[KeySettings]) -> None:
        self._told_at, self._untold = -inf, 0
        self._turns = Turns()
        self._tarpit = Tarpit(time.monotonic)
        self._is_draining = asyncio.Event()
        self.replace(keys)

    def replace(self, keys: Iterable[KeySettings]) -> None:
        """From now on, only these."""
        self._callers = {key.digest[:_FOUND_BY]: Caller(key) for key in keys}

    async def enter(self, context: ServicerContext[Any, Any]) -> Caller | None:
        """Who makes a call, once it is its turn; None where nobody is asked. Raises
        PermissionDenied, and LineFull where too many of its calls wait."""
        said = _authorization(context)
        caller = self._find(said)
        await self._turns.take(name_of(caller, context))
        return self.again(caller) if caller else self.caller_by(said, context.peer())

    async def wait(self, context: ServicerContext[Any, Any]) -> None:
        """Until it is the turn of a call that anybody may make. Raises LineFull."""
        await self._turns.take(name_of(None, context))

    async def wait_to_refuse(
        self, code: grpc.StatusCode, context: ServicerContext[Any, Any], patience: float = inf
    ) -> None:
        """Before a call is answered with this code: for seconds, if its address is at fault so
        often that this is no accident. Its caller waits for ``patience`` seconds at most, if its
        deadline is not sooner."""
        if code in _FAULTS:
            left = context.time_remaining()
            left = patience if left is None else min(left, patience)
            delay = self._tarpit.delay(name_of(None, context), left)
            if delay:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._is_draining.wait()

    def drain(self) -> None:
        """Refuse at once from now on, also the calls that wait for it: those would take all the
        time that others get to end."""
        self._is_draining.set()

    def caller_by(self, said: str, peer: str) -> Caller | None:
        """Who says this as authorization, at once; None where nobody is asked. Raises
        PermissionDenied."""
        caller = self._find(said)
        if caller or not self._callers:
            return caller
        denied = PermissionDenied("", _UNKNOWN if _is_key(said) else _MISSING)
        self._tell(peer, denied)
        raise denied

    def _find(self, said: str) -> Caller | None:
        if not self._callers or not _is_key(said):
            return None
        return self._by_digest(hash_of(said[len(BEARER) :].strip()))

    def _by_digest(self, digest: bytes) -> Caller | None:
        found = self._callers.get(digest[:_FOUND_BY])
        return found if found and compare_digest(found.digest, digest) else None

    def again(self, caller: Caller) -> Caller:
        """As the keys say now; raises PermissionDenied for one that they do not know any more."""
        found = self._by_digest(caller.digest)
        if found is None:
            raise PermissionDenied("", _UNKNOWN)
        return found

    def _tell(self, peer: str, denied: PermissionDenied) -> None:
        """Log it, unless one was logged just now: anybody can cause them."""
        self._untold += 1
        now = time.monotonic()
        if now >= self._told_at + _LOG_EVERY:
            others = f" (and {self._untold - 1} others before)" if self._untold > 1 else ""
            refused = {"event": "refused", "peer": peer, "others": self._untold - 1}
            said = peer, others, denied.reason
            _log.warning("refused a call from %s%s: %s", *said, extra=refused)
            self._told_at, self._untold = now, 0
