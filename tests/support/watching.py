"""Asks a server's page as its script does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.support.scraping import http_port
from tests.support.server_process import ServerProcess


def page_url(server: ServerProcess, path: str = "") -> str:
    return f"http://127.0.0.1:{http_port(server)}/{path}"


def _authorization(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


class Watching:
    """The page's state, as far as the events say."""

    def __init__(self, events: IO[bytes]) -> None:
        self._events = events
        self.told: dict[str, Any] = {}
        """The latest event."""
        self.names: list[str] = []
        self.policies: dict[str, Any] = {}

    def next(self) -> "Watching":
        """Take the next event."""
        while not (line := self._events.readline()).startswith(b"data: "):
            assert line, "the stream has ended"
        self.told = json.loads(line.removeprefix(b"data: "))
        self.names = self.told.get("names", self.names)
        self.policies |= self.told["policies"]
        return self

    def count(self, policy: str, metric: str, *labels: str) -> Any:
        """A value of a metric of a policy; 0 where there is none."""
        rows = self.policies[policy]["counts"].get(metric, [])
        return next((value for *found, value in rows if found == [*labels]), 0)

    def until_it_ends(self) -> None:
        """Waits until the server ends the stream."""
        while self._events.readline():
            pass


@contextmanager
def watching(server: ServerProcess, key: str = "") -> Iterator[Watching]:
    """What a page is told that is open while the block runs."""
    request = Request(page_url(server, "live"), headers=_authorization(key))
    with urlopen(request, timeout=10) as events:
        yield Watching(events)


def asked(server: ServerProcess, request: object, key: str = "") -> tuple[int, dict[str, Any]]:
    """Status and answer to the form, for an ExplainRequest; or for text as it is."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    headers = {"Content-Type": "application/json", **_authorization(key)}
    try:
        with urlopen(Request(page_url(server, "explain"), body, headers), timeout=10) as response:
            return response.status, json.load(response)
    except HTTPError as refused:
        return refused.code, json.load(refused)
