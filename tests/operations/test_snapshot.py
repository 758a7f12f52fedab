"""Buckets in memory that outlive their server, by a file."""

import asyncio
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from openlimit.stores.memory_rows import rows
from openlimit.stores.views import Notes
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit.v1.rate_limit_pb2_grpc import RateLimitServiceStub
from openlimit_server.snapshot import open_store
from tests.support.server_process import ServerProcess, serving_policies

POLICIES = """
policies:
  - name: daily
    models: [daily]
    limits: {requests: 5/day, tokens: 1000000/day}
  - name: waiting
    models: [waiting]
    limits: {requests: 60/minute burst 1s}
  - name: slots
    models: [slots]
    limits: {requests: 600000/minute}
    concurrent: 1
    lease: 1h
    levels: [{label: team}]
"""
DAY = 86_400_000_000  # microseconds


class Asking:
    """Calls of one server."""

    def __init__(self, server: ServerProcess, channel: grpc.Channel) -> None:
        self.server = server
        self.stub: Any = RateLimitServiceStub(channel)

    def acquire(self, model: str = "daily", wait: int = 0, **fields: Any) -> Any:
        """The grant; None for a refusal."""
        call = messages.AcquireRequest(model=model, max_wait=Duration(seconds=wait), **fields)
        try:
            return self.stub.Acquire(call, timeout=5)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return None
            raise

    def settle(self, name: str, tokens: int) -> bool:
        """Whether it was open."""
        request = messages.SettleRequest(reservation_id=name, tokens=tokens)
        return bool(self.stub.Settle(request, timeout=5).settled)

    def left(self) -> int:
        """Of the requests of this day; they are taken."""
        return next(i for i in range(10) if not self.acquire())

    def stop(self) -> None:
        """By a signal, as a service manager does."""
        self.server.signal(signal.SIGTERM)
        assert self.server.wait() == 0


@contextmanager
def serving(folder: Path, policies: str = POLICIES) -> Iterator[Asking]:
    """A server with its snapshot in this folder."""
    with (
        serving_policies(folder, policies, "--snapshot", str(folder / "buckets")) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        yield Asking(server, channel)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """The file of a server that has stopped with two requests left today."""
    with serving(tmp_path) as one:
        assert all(one.acquire() for _ in range(3))
        one.stop()
    return tmp_path / "buckets"


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    """Levels, reservations that wait and that can be settled once, slots, and pauses."""
    with serving(tmp_path) as one:
        assert "no snapshot" in one.server.said()
        granted = [one.acquire(tokens=100) for _ in range(3)]
        assert one.settle(granted[0].reservation_id, tokens=50)
        waits = [one.acquire("waiting", 3600) for _ in range(20)]
        assert one.acquire("slots", 1, labels={"team": "a"}).lease.seconds == 3600
        pause = messages.PenalizeRequest(model="daily", retry_after=Duration(seconds=600))
        one.stub.Penalize(pause, timeout=5)
        one.stop()
    with serving(tmp_path) as one:
        assert "loaded" in one.server.said()
        assert one.acquire() is None  # paused
        assert one.acquire("waiting", 10) is None
        cancel = messages.CancelRequest(reservation_id=waits[-1].reservation_id)
        assert one.stub.Cancel(cancel, timeout=5).cancelled
        assert not one.stub.Cancel(cancel, timeout=5).cancelled
        assert not one.settle(granted[0].reservation_id, tokens=0)
        assert one.settle(granted[1].reservation_id, tokens=50)
        assert one.acquire("slots", 1, labels={"team": "b"}) is None
        lift = messages.PenalizeRequest(model="daily", retry_after=Duration())
        one.stub.Penalize(lift, timeout=5)
        assert one.left() == 2


def test_it_is_written_while_it_serves(tmp_path: Path) -> None:
    """So a server that is killed loses seconds at most; and what it has written is whole whenever
    it is killed."""
    with serving(tmp_path) as one:
        assert one.acquire()
        end = time.monotonic() + 30
        while not (tmp_path / "buckets").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert one.acquire()  # of which it may know nothing
        one.server.signal(signal.SIGKILL)
        one.server.wait()
    with serving(tmp_path) as one:
        assert "loaded 1 buckets" in one.server.said()
        assert one.left() in (3, 4)


def test_only_its_owner_can_read_it(snapshot: Path) -> None:
    """It holds the names of callers and the secret that signs ids; and no other file stays."""
    assert stat.S_IMODE(snapshot.stat().st_mode) == 0o600
    assert sorted(each.name for each in snapshot.parent.iterdir()) == ["buckets", "limits.yaml"]


def damages(whole: bytes) -> Iterator[bytes]:
    """In every region of a file."""
    random_ = random.Random(1)
    for size in (0, 1, 10, 30, 80, len(whole) // 2, len(whole) - 64, len(whole) - 1):
        yield whole[:size]
    yield whole + b"\n"
    regions = [0, 5, 19, 20, 25, len(whole) - 64, len(whole) - 1]
    for place in [*regions, *(random_.randrange(len(whole)) for _ in range(25))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << random_.randrange(8)
        yield bytes(changed)


def test_a_damaged_file_is_refused(snapshot: Path) -> None:
    """Wherever it is damaged, with a reason; and an empty store takes its place."""
    from openlimit_server.snapshot import Refused, _read

    whole = snapshot.read_bytes()
    assert len(_read(whole)[0]) == 1
    for damaged in damages(whole):
        with pytest.raises(Refused):
            _read(damaged)
    snapshot.write_bytes(whole[:-20])
    with serving(snapshot.parent) as one:
        assert "is refused: it is damaged" in one.server.said()
        assert one.left() == 5
        one.stop()
    with serving(snapshot.parent) as one:
        assert one.left() == 0


def rewrite(path: Path, version: int = 1, later: float = 0, row: Any = None) -> None:
    """As another server could have written it, with a checksum that is right."""
    _, head, *parts = path.read_bytes()[:-64].splitlines()
    times = json.loads(head)
    times["wall"] += later
    if row:
        parts.append(json.dumps([row]).encode())
    lines = [b"openlimit snapshot %d" % version, json.dumps(times).encode(), *parts, b""]
    said = b"\n".join(lines)
    path.write_bytes(said + sha256(said).hexdigest().encode())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "it has format 2, and this server reads 1 alone"),
        ({"row": ["strange"]}, "it says what no server writes"),
        ({"row": ["bucket", "x"]}, "it says what no server writes"),
    ],
)
def test_a_file_of_another_server_is_refused(
    snapshot: Path, changes: dict[str, Any], reason: str
) -> None:
    """Its reason is logged, and all buckets are empty."""
    rewrite(snapshot, **changes)
    with serving(snapshot.parent) as one:
        assert reason in one.server.said()
        assert one.left() == 5


def test_a_clock_that_was_set_back_empties_nothing(snapshot: Path) -> None:
    """A file from the future is taken as if it were written just now, or others could start."""
    rewrite(snapshot, later=3 * DAY)
    with serving(snapshot.parent) as one:
        assert "by a clock that is ahead of ours" in one.server.said()
        assert one.left() == 2


def test_an_old_file_is_no_use(snapshot: Path) -> None:
    """All buckets have run empty since; part of it, those that were full part of a day ago."""
    whole = snapshot.read_bytes()
    rewrite(snapshot, later=-DAY * 2 / 5)
    with serving(snapshot.parent) as one:
        assert "loaded 1 buckets" in one.server.said()
        assert one.left() == 4
    snapshot.write_bytes(whole)
    rewrite(snapshot, later=-2 * DAY)
    with serving(snapshot.parent) as one:
        assert "loaded 0 buckets" in one.server.said()
        assert one.left() == 5


def test_levels_stay_where_limits_have_changed(snapshot: Path) -> None:
    """As they do when a policy is changed while the server runs: in units."""
    with serving(snapshot.parent, POLICIES.replace("5/day", "9/day")) as one:
        assert one.left() == 6


def test_a_disk_that_is_full_is_logged_and_nothing_else(tmp_path: Path) -> None:
    """The server serves, and stops as ever; the file from before stays."""
    with serving(tmp_path) as one:
        (tmp_path / "buckets.new").symlink_to("/dev/full")  # which it does not follow
        assert one.acquire()
        one.stop()
        assert "--snapshot: cannot write" in one.server.said()
    assert not (tmp_path / "buckets").exists()


async def test_the_last_write_tells_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a server runs, a disk that stays full is logged once; and again when it stops."""
    monkeypatch.setattr("openlimit_server.snapshot.EVERY", 0.01)
    (tmp_path / "buckets.new").mkdir()
    _, snapshot = open_store(tmp_path / "buckets")
    writing = asyncio.create_task(snapshot.run())
    await asyncio.sleep(0.5)
    assert caplog.text.count("cannot write") == 1
    writing.cancel()
    await snapshot.aclose()
    assert caplog.text.count("cannot write") == 2


async def test_notes_that_change_meanwhile_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there are more than are written in one slice."""
    path = tmp_path / "buckets"
    store, snapshot = open_store(path)
    store.views.notes = {f"policy-{i}": ("{}", inf) for i in range(100)}
    monkeypatch.setattr("openlimit_server.snapshot.EVERY", 0.01)
    writing = asyncio.create_task(snapshot.run())
    while not path.exists() and not writing.done():
        await store.views.adecide([Notes(f"policy-{time.monotonic()}", "{}", inf)])
        await asyncio.sleep(0)
    writing.cancel()
    assert path.exists()


async def test_a_fault_of_ours_does_not_end_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next time, all is written."""
    path = tmp_path / "buckets"
    _, snapshot = open_store(path)
    faults = [ZeroDivisionError]

    def rows_of(store: Any) -> Any:
        if faults:
            raise faults.pop()
        return rows(store)

    monkeypatch.setattr("openlimit_server.snapshot.rows", rows_of)
    monkeypatch.setattr("openlimit_server.snapshot.EVERY", 0.01)
    writing = asyncio.create_task(snapshot.run())
    while not path.exists() and not writing.done():  # noqa: ASYNC110 - no event tells of a file
        await asyncio.sleep(0.001)
    writing.cancel()
    assert path.exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--store", "redis://localhost"], "is for buckets in memory"),
        (["--snapshot", "/nowhere/buckets"], "/nowhere/buckets cannot be written"),
        (["--snapshot", "/"], "/ cannot be written"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, options: list[str], reason: str) -> None:
    """It does not start with them."""
    given = ["--snapshot", str(tmp_path / "buckets"), *options]
    command = [sys.executable, "-m", "openlimit_server", "--listen", "127.0.0.1:0", *given]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert reason in ended.stderr


def kept(server: ServerProcess, what: str) -> int:
    """How many buckets it says that it wrote or loaded."""
    found = re.search(rf"{what} (\d+) buckets", server.said())
    assert found
    return int(found[1])


def test_no_call_fails_while_a_large_one_is_written(tmp_path: Path) -> None:
    """Of 20,000 buckets; and all of them come back."""
    policies = "policies: [{name: p, models: ['*'], limits: {requests: 9/day}, split_by: [key]}]"
    answered: list[Any] = []
    with serving(tmp_path, policies) as one:
        over = threading.Event()

        def ask() -> None:
            while not over.is_set():
                answered.append(one.acquire("m", key=f"good-{len(answered) // 9}"))

        items = [messages.AcquireRequest(model="m", key=f"k{i}") for i in range(20_000)]
        for i in range(0, len(items), 1000):
            batch = messages.AcquireBatchRequest(acquisitions=items[i : i + 1000])
            assert len(one.stub.AcquireBatch(batch, timeout=20).results) == 1000
        asking = threading.Thread(target=ask)
        asking.start()
        while not (tmp_path / "buckets").exists():
            time.sleep(0.05)
        over.set()
        asking.join()
        one.stop()
        own = kept(one.server, "wrote") - 20_000 - (len(answered) + 8) // 9
        assert 0 <= own <= 8  # by which the server looks after its store
    assert all(answered)
    with serving(tmp_path, policies) as one:
        assert kept(one.server, "loaded") == 20_000 + (len(answered) + 8) // 9
        assert os.stat(tmp_path / "buckets").st_size < 20_000 * 200 + 100_000
