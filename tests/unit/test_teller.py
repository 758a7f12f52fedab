"""What is told while the server is away, and for how long it is kept."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from openlimit import LimiterUnavailable
from openlimit.operations import Cancel, Observe, Penalize, Release, Renew, Settle
from openlimit.remote import teller
from openlimit.remote.teller import Teller
from openlimit.wire import messages as items

SETTLEMENT = Settle("id", "", {"tokens": 1})


class Server:
    """Away until ``is_up``; the clock moves by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[items.Asked] = []
        self.now = 1000.0
        self.is_up = False
        monkeypatch.setattr(teller, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.teller = Teller("server", 5, self.ask, lambda: False)

    def ask(self, asked: items.Asked, mailbox: Any, at: float) -> int:
        if self.is_up:
            self.heard.append(asked)
        else:
            mailbox.deliver([(at, LimiterUnavailable("server", "away"), asked)])
        return 1

    def heard_after(self, told: items.Told, *seconds: float) -> list[items.Asked]:
        """What it hears that is back after so many seconds; it was tried again before, in vain."""
        self.teller.tell(told)
        for each in seconds:
            self.now += each
            self.is_up = each is seconds[-1]
            self.teller.tell_again()
        return self.heard


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.mark.parametrize("told", [SETTLEMENT, Cancel("id", ""), Release("id", "")])
def test_what_became_of_a_call_is_told_once_the_server_is_back(
    server: Server, told: items.Told
) -> None:
    """Once, within the time that servers remember it."""
    assert server.heard_after(told, 1, 300, 598) == [told]
    server.teller.tell_again()
    assert server.heard == [told]


def test_what_no_server_remembers_is_told_no_more(server: Server) -> None:
    """It would only take room."""
    assert server.heard_after(SETTLEMENT, 600, 301) == []
    assert not server.teller.owed


def test_a_pause_is_told_for_what_is_left_of_it(server: Server) -> None:
    """However often it was told in vain."""
    assert server.heard_after(Penalize("m", "", 30), 4, 6, 10) == [Penalize("m", "", 10)]


@pytest.mark.parametrize("told", [Penalize("m", "", 30), Penalize("m", "", 0)])
def test_a_pause_that_is_over_is_not_told(server: Server, told: items.Told) -> None:
    """Nor its end, which might end another's."""
    assert server.heard_after(told, 20, 11) == []


def test_the_end_of_a_pause_survives_a_restart(server: Server) -> None:
    """As calls do, for the timeout."""
    assert server.heard_after(Penalize("m", "", 0), 4) == [Penalize("m", "", 0)]


@pytest.mark.parametrize("told", [Observe("m", "", {"tokens": 1}), Renew("id", "")])
def test_what_was_true_of_a_moment_is_not_told_later(server: Server, told: items.Told) -> None:
    """The next of its kind replaces it."""
    assert server.heard_after(told, 0.1) == []


def test_what_is_forgotten_of_a_long_outage_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, not for each call."""
    with caplog.at_level(logging.WARNING):
        for each in range(10_005):
            server.teller.tell(Release(str(each), ""))
    assert len(server.teller.owed) == 10_000
    [record] = caplog.records
    assert "charged as reserved" in record.getMessage()
