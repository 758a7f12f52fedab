"""Overrides of policies: kept with the buckets, followed by all servers, gone at their time.

What is in force are the policies of the file with the overrides applied, handed on whole whenever
either changes: to all others an override is a changed policy for a while.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from typing import NamedTuple, cast

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from openlimit.background import tell_of_fault
from openlimit.bucket.limit import SECOND
from openlimit.errors import InvalidRequest, LimiterUnavailable
from openlimit.stores.views import AsyncViews, Board, Notes
from openlimit.v1.admin_pb2 import Override
from openlimit_server.config.configuration import Configuration
from openlimit_server.config.overrides import (
    ChangeSettings,
    changed_by,
    read_change,
    require_policy,
)

MOST = 100
_LONGEST = 31 * 86_400 * SECOND
_MOST_CHARACTERS = 500
_LOOK_EVERY = 0.5  # seconds
_MICRO = 1000  # nanoseconds

_log = logging.getLogger("openlimit")
_audit = logging.getLogger("openlimit.audit")


class _Kept(NamedTuple):
    """An override as the store keeps it."""

    text: str
    override: Override
    change: ChangeSettings | None
    """None for one that this server cannot read."""
    ends: float
    """On the event loop's clock."""


class Overrides:
    """Those of one store over what files say. ``take`` takes over what is in force."""

    def __init__(
        self,
        views: AsyncViews,
        configuration: Configuration,
        take: Callable[[Configuration], None],
    ) -> None:
        self._views = views
        self._file = configuration
        self._take = take
        self._kept: dict[str, _Kept] = {}
        self._is_taken = True
        """Whether what is kept was taken over, without a fault."""
        self._turn = asyncio.Lock()
        self.configuration = configuration
        """In force: with the overrides."""

    @property
    def all(self) -> list[Override]:
        """By policy and node."""
        return [self._kept[name].override for name in sorted(self._kept)]

    def replace(self, configuration: Configuration) -> None:
        """From now on, this is what files say. What is in force then is taken over."""
        self._file = configuration
        self._apply()

    async def run(self) -> None:
        """Follow what the store keeps, until this is cancelled; no fault of it ends this."""
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            try:
                await self.look()
            except Exception as error:
                tell_of_fault("following overrides", error)

    async def look(self) -> None:
        """Take over what has changed. While the store is away, all that is known goes on."""
        await self._ask(Notes())
        now = asyncio.get_running_loop().time()
        self._keep({name: kept for name, kept in self._kept.items() if kept.ends > now})

    async def set(self, asked: Override, by: str) -> tuple[Override, bool]:
        """Keep one, by somebody; the override, and whether it replaces another. Raises
        InvalidRequest and LimiterUnavailable."""
        board = await self._board(Notes())
        require_policy(self._file, asked.policy)
        change = _change(asked)
        changed_by(self._file, change)
        until = asked.until.ToNanoseconds() / _MICRO
        _require_sensible(asked, by, until, board.now)
        if change.name not in board.notes and len(board.notes) >= MOST:
            raise InvalidRequest("override", f"{MOST} are kept already; remove one of them")
        override = Override()
        override.CopyFrom(asked)
        override.by, override.trouble = by, ""
        override.until.FromMicroseconds(int(until))
        override.set_at.FromMicroseconds(int(board.now))
        text = MessageToJson(override, indent=None)
        replaced = change.name in board.notes
        with _recorded("set", by, override, replaced=replaced):
            await self._board(Notes(change.name, text, until))
        return override, replaced

    async def remove(self, policy: str, node: Mapping[str, str], by: str) -> bool:
        """End one, by somebody; whether there was one. Raises InvalidRequest and
        LimiterUnavailable."""
        _require_text("by", by)
        name = _name(policy, node)
        before = await self._board(Notes())
        if name not in before.notes:
            return False
        with _recorded("remove", by, Override(policy=policy, node=node)):
            await self._board(Notes(name))
        return True

    def of(self, policy: str) -> list[Override]:
        """Those of a policy that are in force."""
        return [each for each in self.all if each.policy == policy and not each.trouble]

    async def _ask(self, notes: Notes) -> Board | LimiterUnavailable:
        """Also takes over what the store keeps: of two answers, the later one last."""
        async with self._turn:
            [answer] = await self._views.adecide([notes])
            if isinstance(answer, Board):
                self._follow(answer)
        return cast(Board | LimiterUnavailable, answer)

    async def _board(self, notes: Notes) -> Board:
        answer = await self._ask(notes)
        if isinstance(answer, LimiterUnavailable):
            raise answer
        return answer

    def _follow(self, board: Board) -> None:
        """Take over what the store keeps."""
        loop_now = asyncio.get_running_loop().time()
        kept = {}
        for name, (text, until) in board.notes.items():
            ends = loop_now + (until - board.now) / SECOND
            before = self._kept.get(name)
            known = before if before and before.text == text else _read_note(name, text)
            kept[name] = known._replace(ends=ends)
        self._keep(kept)

    def _keep(self, kept: dict[str, _Kept]) -> None:
        before, self._kept = self._kept, kept
        texts, texts_before = ({n: e.text for n, e in each.items()} for each in (kept, before))
        if self._is_taken and texts == texts_before:
            return
        self._apply()
        for name in before.keys() - kept.keys():
            _log.info("the override of %s has ended", name)
        for name, each in kept.items():
            if name not in before or before[name].text != each.text:
                _log.info("the override of %s is in force: %s", name, _described(each.override))

    def _apply(self) -> None:
        self._is_taken = False
        changed = self._file
        for kept in self._kept.values():
            if kept.change is None:
                continue
            try:
                changed = changed_by(changed, kept.change)
                kept.override.trouble = ""
            except InvalidRequest as error:
                kept.override.trouble = error.reason
        self._take(changed)
        self.configuration = changed
        self._is_taken = True


def _name(policy: str, node: Mapping[str, str]) -> str:
    return "/".join([policy, *(f"{label}={value}" for label, value in node.items())])


def _change(override: Override) -> ChangeSettings:
    return read_change(
        override.policy,
        override.node,
        override.limits,
        override.concurrent if override.HasField("concurrent") else None,
        override.weight if override.HasField("weight") else None,
    )


def _read_note(name: str, text: str) -> _Kept:
    """One that another version has set may be unreadable here."""
    override, change = Override(), None
    try:
        Parse(text, override, ignore_unknown_fields=True)
        change = _change(override)
    except (ParseError, InvalidRequest) as error:
        override.trouble = f"this server cannot read it: {error}"
        _log.error("the override of %s has no effect here: %s", name, override.trouble)
    return _Kept(text, override, change, inf)


def _require_sensible(override: Override, by: str, until: float, now: float) -> None:
    _require_text("why", override.why)
    _require_text("by", by)
    if not now < until <= now + _LONGEST:
        raise InvalidRequest(
            "until", "must be a time that lies ahead, 31 days at most, by the clock of the store"
        )


def _require_text(field: str, text: str) -> None:
    if not 1 <= len(text.strip()) <= len(text) <= _MOST_CHARACTERS or not text.isprintable():
        raise InvalidRequest(
            field, f"must have 1 to {_MOST_CHARACTERS} characters on one line, for other people"
        )


def _described(override: Override) -> str:
    changes = [f"{unit} {text}" for unit, text in sorted(override.limits.items())]
    if override.HasField("concurrent"):
        changes.append(f"concurrent {override.concurrent}")
    if override.HasField("weight"):
        changes.append(f"weight {override.weight:g}")
    until = override.until.ToJsonString()
    return f"{', '.join(changes)} until {until}, by {override.by} ({override.why})"


@contextmanager
def _recorded(what: str, by: str, override: Override, **more: object) -> Iterator[None]:
    """A line of JSON: who has done what. Also where the store did not say that it was done: it may
    be all the same."""
    content = json.loads(MessageToJson(override, preserving_proto_field_name=True))
    said = {"action": f"{what}_override", "by": by, **more, **content}
    try:
        yield
    except BaseException as error:
        said["unconfirmed"] = str(error) or type(error).__name__
        raise
    finally:
        _audit.info("%s", json.dumps({"time": datetime.now(UTC).isoformat(), **said}))
