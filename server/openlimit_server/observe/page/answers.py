"""The page's answers: its files, what it shows live, and why a call would wait."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError

from openlimit.errors import LimiterUnavailable, OpenLimitError, PermissionDenied
from openlimit.v1.admin_pb2 import ExplainRequest, ListBucketsResponse
from openlimit.wire.fields import read_acquire
from openlimit_server.engine.engine import Engine
from openlimit_server.engine.overrides import Overrides
from openlimit_server.engine.picture import policy_info
from openlimit_server.observe.http import Answer, Request, Response, Stream
from openlimit_server.observe.numbers import Numbers
from openlimit_server.observe.page import files
from openlimit_server.observe.page.live import Live, Picture
from openlimit_server.observe.page.picture import as_dict, picture
from openlimit_server.rpc.auth import Door

_NODES = 20  # of each policy
_WITHIN = 2.0  # seconds for the store to tell of buckets
_JSON = "application/json"


class Page:
    """Of a server that decides by an ``engine``, with these ``overrides`` of what its files say,
    counts ``numbers`` and knows its callers at the ``door``. Where it has keys, the page wants one
    that may ``admin``."""

    def __init__(
        self, engine: Engine, overrides: Overrides, door: Door, numbers: Callable[[], Numbers]
    ) -> None:
        self._engine = engine
        self._overrides = overrides
        self._door = door
        self._numbers = numbers
        self._live = Live(self._look)
        self.answers: Mapping[str, Answer] = {**files.answers(), "/live": self._watch}
        self.posted: Mapping[str, Answer] = {"/explain": self._explain}

    async def aclose(self) -> None:
        """Look no more."""
        await self._live.aclose()

    async def _watch(self, request: Request) -> Response | Stream:
        if denied := self._denied(request):
            return _refused(denied)
        parts = self._live.watch(lambda: self._denied(request) is None)
        return Stream(parts, "text/event-stream")

    async def _explain(self, request: Request) -> Response:
        if denied := self._denied(request):
            return _refused(denied)
        if request.headers.get("content-type", "").partition(";")[0] != _JSON:
            return _json(415, {"error": f"expected a body of the type {_JSON}"})
        try:
            asked = ParseDict(json.loads(request.body), ExplainRequest())
        except (ValueError, ParseError, RecursionError) as error:
            return _json(400, {"error": f"expected an ExplainRequest in JSON: {error}"})
        try:
            async with asyncio.timeout(_WITHIN):
                return _json(200, as_dict(await self._engine.explain(read_acquire(asked.call))))
        except TimeoutError:
            return _json(503, {"error": "the store did not answer in time; ask again"})
        except OpenLimitError as error:
            return _json(503 if isinstance(error, LimiterUnavailable) else 422, _said(error))

    def _denied(self, request: Request) -> PermissionDenied | None:
        """Why this is not for whoever asks, if it is not."""
        try:
            if caller := self._door.caller_by(
                request.headers.get("authorization", ""), request.peer
            ):
                caller.require("admin")
        except PermissionDenied as denied:
            return denied
        return None

    async def _look(self) -> Picture:
        at, trouble, buckets = time.time(), "", ListBucketsResponse()
        try:
            async with asyncio.timeout(_WITHIN):
                buckets = await self._engine.list_buckets("", _NODES)
        except TimeoutError:
            trouble = f"it did not answer within {_WITHIN:g} s"
        except OpenLimitError as error:
            trouble = str(error)
        policies = [
            policy_info(policy, self._overrides.of(policy.name))
            for policy in self._overrides.configuration.policies
        ]
        # In a thread, so that calls are decided meanwhile.
        return await asyncio.to_thread(
            partial(picture, at, trouble, self._numbers(), policies, buckets)
        )


def _refused(denied: PermissionDenied) -> Response:
    return _json(403 if denied.key else 401, _said(denied))


def _said(error: OpenLimitError) -> dict[str, Any]:
    return {"error": str(error)}


def _json(status: int, said: dict[str, Any]) -> Response:
    return Response(status, json.dumps(said).encode(), _JSON)
