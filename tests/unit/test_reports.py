"""What is reported while the server is away, and for how long it is kept."""

import logging
from threading import RLock
from typing import Any

import pytest

from openlimit import InvalidRequest, LimiterUnavailable, UnknownReservation
from openlimit.operations import Cancel, Observe, Penalize, Release, Renew, Report, Settle
from openlimit.remote.reports import Reports
from openlimit.remote.stream import Stream
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from openlimit.wire.columns import SettleRun
from openlimit.wire.messages import read_operations

AWAY = LimiterUnavailable("server", "away")
SETTLEMENT = Settle("id", "", {"tokens": 1})


class Server:
    """Away until ``is_up``; the clock moves by hand."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.now = 1000.0
        self.is_up = False
        self.reports = Reports(RLock(), "server", 5, lambda _: None, lambda: self.now)

    def is_sent(self) -> None:
        """All that there is: it hears that, or the stream ends."""
        stream = Stream("server", 5, [], lambda *_: None, lambda *_: None)
        request = AcquireStreamRequest()
        while self.is_up and self.reports.write(stream, request, 100):
            pass
        for part in read_operations(request):
            for each in part.operations:
                if isinstance(each, SettleRun):
                    self.heard += map(each.one, range(len(each.ids)))
                else:
                    self.heard.append(each)
        if not self.is_up:
            self.reports.rewind(stream, AWAY)

    def heard_after(self, report: Report, *seconds: float) -> list[Any]:
        """What it hears that is back after so many seconds; it was tried again before, in vain."""
        self.reports.add(report)
        self.is_sent()
        for each in seconds:
            self.now += each
            self.is_up = each is seconds[-1]
            self.reports.send_again()
            self.is_sent()
        return self.heard


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.mark.parametrize("report", [SETTLEMENT, Cancel("id", ""), Release("id", "")])
def test_what_became_of_a_call_is_sent_once_the_server_is_back(
    server: Server, report: Report
) -> None:
    """Once, within the time that servers remember it."""
    assert server.heard_after(report, 1, 300, 598) == [report]
    server.reports.send_again()
    server.is_sent()
    assert server.heard == [report]


def test_what_no_server_remembers_is_sent_no_more(server: Server) -> None:
    """It would only take room."""
    assert server.heard_after(SETTLEMENT, 600, 301) == []
    assert not server.reports.owing


def test_a_pause_is_sent_for_what_is_left_of_it(server: Server) -> None:
    """However often it was sent in vain."""
    assert server.heard_after(Penalize("m", "", 30), 4, 6, 10) == [Penalize("m", "", 10)]


@pytest.mark.parametrize("report", [Penalize("m", "", 30), Penalize("m", "", 0)])
def test_a_pause_that_is_over_is_not_sent(server: Server, report: Report) -> None:
    """Nor its end, which might end another's."""
    assert server.heard_after(report, 20, 11) == []


@pytest.mark.parametrize("back_after", [1, 20])
def test_a_pause_that_was_lifted_is_not_sent(server: Server, back_after: float) -> None:
    """Whether its end arrives or is lost as well; another model's goes on."""
    server.reports.add(Penalize("other", "", 60))
    server.reports.add(Penalize("m", "", 60))
    server.is_sent()
    server.now += 1
    server.is_up = back_after == 1
    server.reports.add(Penalize("m", "", 0))
    server.is_sent()
    server.now += back_after
    server.is_up = True
    server.reports.send_again()
    server.is_sent()
    ended = [Penalize("m", "", 0)] if back_after == 1 else []
    assert server.heard == [*ended, Penalize("other", "", 59 - back_after)]


def test_the_end_of_a_pause_survives_a_restart(server: Server) -> None:
    """As calls do, for the timeout."""
    assert server.heard_after(Penalize("m", "", 0), 4) == [Penalize("m", "", 0)]


@pytest.mark.parametrize("report", [Observe("m", "", {"tokens": 1}), Renew("id", "")])
def test_what_was_true_of_a_moment_is_not_sent_later(server: Server, report: Report) -> None:
    """The next of its kind replaces it."""
    assert server.heard_after(report, 0.1) == []


def test_what_is_forgotten_of_a_long_outage_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, not for each call."""
    with caplog.at_level(logging.WARNING):
        for each in range(10_005):
            server.reports.add(Release(str(each), ""))
            server.is_sent()
    assert server.reports.owing == 10_000
    [record] = caplog.records
    assert "charged as reserved" in record.getMessage()


def test_a_call_whose_settlement_is_refused_is_released(server: Server) -> None:
    """Once: its slot is free at once, and not when its lease ends."""
    stream = opened()
    server.reports.add(Settle("a/1", "k", {"tokens": 1}, (("team", "x"),)))
    [run] = sent(server, stream)
    server.reports.answered(stream, [(run.ids[0], InvalidRequest("tokens", "too many"))], 1)
    [release] = sent(server, stream)
    assert release.one(0) == Release("a/1", "k", (("team", "x"),))
    server.reports.answered(stream, [(release.ids[0], InvalidRequest("id", "is none"))], 1)
    assert not any(server.reports.queues)


def sent(server: Server, stream: Stream) -> list[SettleRun]:
    """What goes out on the stream next."""
    request = AcquireStreamRequest()
    server.reports.write(stream, request, 100)
    [part] = read_operations(request)
    return [each for each in part.operations if isinstance(each, SettleRun)]


def opened() -> Stream:
    return Stream("server", 5, [], lambda *_: None, lambda *_: None)


def settled(server: Server, *reservation_ids: str) -> None:
    for each in reservation_ids:
        server.reports.add(Settle(each, "", {"tokens": 1}))


def test_settlements_are_kept_as_they_were_sent_until_they_are_acknowledged(server: Server) -> None:
    """The next stream sends the runs again that this one did not acknowledge, and no others."""
    stream = opened()
    settled(server, "a/one", "b/one", "c/two")
    runs = sent(server, stream)
    assert [(run.scope, [*run.reservation_ids]) for run in runs] == [
        ("one", ["a", "b"]),
        ("two", ["c"]),
    ]
    assert server.reports.answered(stream, [], 1) == 2
    assert server.reports.answered(stream, [], 1) == 0
    server.reports.rewind(stream, AWAY)
    assert server.reports.owing == 1
    server.reports.send_again()
    again = opened()
    assert sent(server, again) == runs[1:]
    assert server.reports.are_open(2**62)
    assert server.reports.answered(again, [], 1) == 1
    assert not server.reports.are_open(2**62)


def test_a_settlement_that_failed_is_sent_again_without_its_run(server: Server) -> None:
    """If it may succeed later; an answer counts once, though its run is acknowledged as well."""
    stream = opened()
    settled(server, "a/s", "b/s", "c/s")
    [run] = sent(server, stream)
    wrong = [(run.ids[0], AWAY), (run.ids[1], UnknownReservation("b/s"))]
    assert server.reports.answered(stream, wrong, 1) == 1
    server.reports.send_again()
    [again] = sent(server, stream)
    assert again._replace(ids=run.ids) == run.only([0])._replace(ids=run.ids)
    assert server.reports.answered(stream, [], 2) == 1


def test_more_runs_are_acknowledged_than_were_sent(server: Server) -> None:
    """What is sent later is not taken for one of them."""
    stream = opened()
    settled(server, "a/s")
    sent(server, stream)
    assert server.reports.answered(stream, [], 2**63) == 1
    settled(server, "b/s")
    sent(server, stream)
    assert server.reports.answered(stream, [], 1) == 0
    assert server.reports.answered(stream, [], 2) == 1


def test_what_is_owed_is_bounded_by_settlements_not_by_runs(server: Server) -> None:
    """The oldest runs are forgotten first."""
    stream = opened()
    for each in range(10_100):
        settled(server, f"{each}/s")
    while any(server.reports.queues):
        sent(server, stream)
    server.reports.rewind(stream, AWAY)
    assert 9_900 < server.reports.owing <= 10_000
    server.reports.send_again()
    assert "0" not in sent(server, opened())[0].reservation_ids
