"""What a server tells its page, over real sockets: the files, the events and the form."""

import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from openlimit import RemoteLimiter, WaitTooLong
from tests.support.api_keys import a_key, token_of, write_keys
from tests.support.calls import a_call
from tests.support.redis_process import serving_redis
from tests.support.scraping import HTTP, scrape, value
from tests.support.server_process import ServerProcess, serving_policies
from tests.support.watching import asked, page_url, watching

POLICIES = """
policies:
  - name: shared
    models: [shared]
    limits: {requests: 600/minute burst 1m, tokens: 60000/minute burst 1m}
    concurrent: 2
    levels:
      - label: team
        weights: {search: 4}
        limits: {tokens: 30000/minute burst 1m}
  - name: slow
    models: ["slow*"]
    split_by: [key]
    limits: {requests: 1/minute burst 1m}
  - name: idle
    models: ["*"]
    limits: {requests: 60/minute}
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with serving_policies(tmp_path, POLICIES, *HTTP) as server:
        yield server


def test_the_page_and_its_files_are_served(server: ServerProcess) -> None:
    """Each with its type, and with what keeps browsers from loading anything else."""
    with urlopen(page_url(server), timeout=10) as response:
        html = response.read().decode()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for path in re.findall(r'(?:src|href)="(page/[^"]+)"', html):
        with urlopen(page_url(server, path), timeout=10) as response:
            assert response.read()
            assert response.headers["Content-Type"].startswith(types[path.rsplit(".")[-1]])
    with pytest.raises(HTTPError, match="404"):
        urlopen(page_url(server, "page/../answers.py"), timeout=10)


def test_calls_are_told_as_they_come(server: ServerProcess) -> None:
    """Policies in their order, their nodes and levels, decisions and reasons of refusals."""
    with RemoteLimiter(server.address) as limiter, watching(server) as page:
        page.next()
        assert page.names == ["shared", "slow", "idle"]
        assert page.policies["shared"]["info"]["levels"][0]["label"] == "team"
        assert page.policies["idle"]["nodes"] == []
        limiter.acquire(a_call("slow", {"requests": 1, "tokens": 0})._replace(key="a"))
        with pytest.raises(WaitTooLong):
            limiter.acquire(
                a_call("slow", {"requests": 1, "tokens": 0})._replace(key="a", max_wait=1)
            )
        while not page.count("slow", "decisions", "refused", "WAIT_TOO_LONG", "requests"):
            page.next()
    assert page.count("slow", "decisions", "granted", "", "") == 1
    [node] = page.policies["slow"]["nodes"]
    assert node["labels"] == {"key": "a"}
    [fill] = node["fills"]
    assert fill["limit"] == {"unit": "requests", "amount": 1.0, "period": "60s", "capacity": 1.0}
    assert 0.5 < fill["level"] <= 1
    assert page.told["trouble"] == ""


def test_lines_slots_and_pauses_are_told(server: ServerProcess) -> None:
    """In the nodes of the tree, as long as they last."""
    with RemoteLimiter(server.address) as limiter, watching(server) as page:
        team = {"team": "search"}

        def call() -> None:
            with limiter.limit(model="shared", tokens=100, labels=team):
                pass

        def root() -> dict[str, Any]:
            nodes: list[dict[str, Any]] = page.next().policies["shared"]["nodes"]
            return nodes[0] if nodes else {}

        first = limiter.limit(model="shared", tokens=100, labels=team)
        with first, limiter.limit(model="shared", tokens=100, labels=team):
            third = Thread(target=call)
            third.start()
            while "waiting" not in (seen := root()):
                pass
            search = page.policies["shared"]["nodes"][1]
        third.join()
        assert (seen["slots"], seen["running"], seen["waiting"]) == ("2", "2", "1")
        assert seen["limited_by"] == "concurrent"
        assert search["labels"] == team
        assert (search["weight"], search["share"]) == (4, 1)
        charged = page.policies["shared"]["counts"]["node_units"]
        assert sorted(charged) == [
            [[], "requests", 2],
            [[], "tokens", 200],
            [["search"], "requests", 2],
            [["search"], "tokens", 200],
        ]
        limiter.penalize(60, model="shared")
        while "paused" not in root():
            pass
        assert page.count("shared", "pauses") == 1


def test_a_call_is_explained_and_nothing_charged(server: ServerProcess) -> None:
    """By the same words as the admin call; what is wrong with one is said."""
    call = {"model": "shared", "tokens": 500, "labels": {"team": "search"}}
    status, said = asked(server, {"call": call})
    assert status == 200
    assert (said["policy"], said["verdict"]) == ("shared", "VERDICT_STARTS")
    assert said["costs"] == {"requests": "1", "tokens": "500"}
    assert [node.get("labels", {}) for node in said["path"]] == [{}, {"team": "search"}]
    assert asked(server, {"call": {**call, "tokens": 70_000}})[1]["verdict"] == "VERDICT_NEVER"
    with watching(server) as page:
        assert not page.next().policies["shared"]["nodes"]
    assert not value(scrape(server), "reserved_units_total")


@pytest.mark.parametrize(
    ("request_", "status", "error"),
    [
        (b"", 400, "expected an ExplainRequest in JSON"),
        (b"[" * 60_000, 400, "expected an ExplainRequest in JSON"),
        (b'{"call": {"model": 1}}', 400, "expected an ExplainRequest in JSON"),
        (b"\xff\xfe", 400, "expected an ExplainRequest in JSON"),
        ({"call": {"model": "slow", "tokens": -1}}, 422, "tokens"),
        ({"call": {"model": "slow", "key": "x" * 257}}, 422, "key"),
        ({"call": {}}, 422, "model"),
    ],
)
def test_what_cannot_be_explained_is_said(
    server: ServerProcess, request_: object, status: int, error: str
) -> None:
    """And the server goes on answering."""
    answered, said = asked(server, request_)
    assert answered == status
    assert error in said["error"]
    assert asked(server, {"call": {"model": "slow"}})[0] == 200


def test_only_a_form_of_the_page_can_ask(server: ServerProcess) -> None:
    """A form of another site cannot send JSON."""
    with pytest.raises(HTTPError, match="415"):
        urlopen(page_url(server, "explain"), b'{"call": {"model": "slow"}}', timeout=10)


def test_hostile_labels_are_data(server: ServerProcess) -> None:
    """They arrive as they were written, and end no event."""
    hostile = "</script><script>alert(1)</script>\n\n\u202eevil" + "x" * 200
    with RemoteLimiter(server.address) as limiter, watching(server) as page:
        limiter.acquire(a_call("slow", {"requests": 1, "tokens": 0})._replace(key=hostile))
        while not page.next().policies["slow"]["nodes"]:
            pass
    assert page.policies["slow"]["nodes"][0]["labels"] == {"key": hostile}


def test_pages_that_are_closed_are_no_fault(server: ServerProcess) -> None:
    """However: the server logs nothing of them."""
    port = urlsplit(page_url(server)).port
    for linger in (0, 1):
        tabs = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        for tab in tabs:
            tab.sendall(b"GET /live HTTP/1.1\r\nHost: here\r\n\r\n")
            assert tab.recv(12) == b"HTTP/1.1 200"
            tab.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, linger))
            tab.close()
    with watching(server) as page:  # for as long as the others would have got two pictures
        page.next().next().next()
    assert "ERROR" not in server.said()


def test_with_keys_only_an_admin_sees_it(tmp_path: Path) -> None:
    """The page itself is for everybody; what it shows is refused without a key, and to others."""
    keys = tmp_path / "keys.yaml"
    admin, other = a_key("operator", "admin"), a_key("worker", "acquire")
    write_keys(keys, admin, other)
    with serving_policies(tmp_path, POLICIES, *HTTP, "--keys", str(keys)) as server:
        with urlopen(page_url(server), timeout=10) as response:
            assert b"<title>openlimit</title>" in response.read()
        call = {"call": {"model": "slow"}}
        for key, status in (("", 401), ("olk_unknown", 401), (token_of("worker"), 403)):
            assert asked(server, call, key)[0] == status
            with pytest.raises(HTTPError, match=str(status)), watching(server, key):
                pass
        assert asked(server, call, token_of("operator"))[0] == 200
        with watching(server, token_of("operator")) as page:
            assert page.next().names == ["shared", "slow", "idle"]
            write_keys(keys, other)  # the operator's is revoked
            page.until_it_ends()
        assert token_of("operator") not in server.said()


def test_several_workers_have_one_page(tmp_path: Path) -> None:
    """Their counts added up, over the buckets that they share."""
    with (
        serving_redis() as redis,
        serving_policies(
            tmp_path, POLICIES, *HTTP, "--store", redis.url, "--workers", "2"
        ) as server,
        watching(server) as page,
    ):
        for i in range(10):
            with RemoteLimiter(server.address) as limiter:  # whichever worker has it
                limiter.acquire(a_call("slow", {"requests": 1, "tokens": 0})._replace(key=f"{i}"))
        page.next()
        while page.count("slow", "decisions", "granted", "", "") < 10:
            page.next()
        assert len(page.policies["slow"]["nodes"]) == 10
        assert (
            asked(server, {"call": {"model": "slow", "key": "3"}})[1]["verdict"] == "VERDICT_WAITS"
        )


def test_a_store_that_is_away_is_told(tmp_path: Path) -> None:
    """The page goes on, and says what is wrong."""
    with (
        serving_redis() as redis,
        serving_policies(tmp_path, POLICIES, *HTTP, "--store", redis.url) as server,
        watching(server) as page,
    ):
        assert page.next().told["trouble"] == ""
        redis.stop()
        while not page.next().told["trouble"]:
            pass
        assert asked(server, {"call": {"model": "slow"}})[0] == 503
