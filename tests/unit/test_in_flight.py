"""What of a connection's acquisitions is sent again, and by which name."""

from queue import SimpleQueue
from threading import RLock
from types import SimpleNamespace
from typing import Any

from openlimit.errors import LimiterUnavailable, Queued, Waiting
from openlimit.operations import Acquire, Grant
from openlimit.remote.in_flight import InFlight
from openlimit.remote.waiting import ThreadWaiters
from openlimit.v1.rate_limit_pb2 import AcquireStreamRequest
from tests.support.calls import a_call

WAITERS = ThreadWaiters(is_patient=True)
WAITING = Waiting(1, 5.0, (), "tokens")
GRANT = Grant(0, "", "r/s")


class Asked:
    """Acquisitions in flight, of one stream after another."""

    def __init__(self) -> None:
        self.unclaimed: list[tuple[Acquire, object]] = []
        self.in_flight = InFlight(RLock(), lambda *each: self.unclaimed.append(each))
        self.queues: dict[int, SimpleQueue[object]] = {}

    def ask(self, calls: int = 1) -> list[int]:
        """The numbers of new calls."""
        numbers = []
        for _ in range(calls):
            queue: SimpleQueue[object] = SimpleQueue()
            numbers.append(
                self.in_flight.add(a_call("m", {"requests": 1, "tokens": 1}), WAITERS, queue)
            )
            self.queues[numbers[-1]] = queue
        return numbers

    def sent(self) -> AcquireStreamRequest:
        """The next message."""
        request, stream = AcquireStreamRequest(), SimpleNamespace(is_left=False)
        any_stream: Any = stream
        self.in_flight.write(any_stream, request, 1000)
        return request

    def lose(self) -> None:
        """The stream."""
        self.in_flight.rewind(lambda: LimiterUnavailable("", ""), for_good=False, forget=False)


def test_a_call_in_line_is_sent_again_with_its_ticket() -> None:
    """The others of its run go out under the name that they had."""
    asked = Asked()
    first, second = asked.ask(2)
    [run] = asked.sent().runs
    asked.in_flight.answered([(first, Queued("ticket", WAITING))])
    asked.lose()
    again = asked.sent()
    rest = asked.sent() if not again.operations else again
    [of_run], [alone] = again.runs, rest.operations
    assert (of_run.request_id, [*of_run.ids]) == (run.request_id, [second])
    assert (alone.id, alone.acquire.request_id) == (first, "ticket")


def test_news_are_not_the_answer() -> None:
    """The caller is told, and goes on waiting for what is decided."""
    asked = Asked()
    [number] = asked.ask()
    asked.sent()
    for _ in range(2):
        asked.in_flight.answered([(number, Queued("ticket", WAITING))])
        assert isinstance(asked.queues[number].get_nowait(), Queued)
    assert asked.in_flight.is_held(number)
    asked.in_flight.answered([(number, GRANT)])
    assert asked.queues[number].get_nowait() == GRANT
    assert not asked.in_flight.is_held(number)


def test_a_call_in_line_is_not_overdue_until_its_server_is_lost() -> None:
    """From then on its caller waits for as long as for any other answer."""
    asked = Asked()
    [number] = asked.ask()
    asked.sent()
    asked.in_flight.answered([(number, Queued("ticket", WAITING))])
    [later] = asked.ask()
    assert asked.in_flight.overdue(WAITERS, later) == ([], True)
    asked.lose()
    assert asked.in_flight.overdue(WAITERS, later) == ([], True)
    [latest] = asked.ask()
    promises, _ = asked.in_flight.overdue(WAITERS, latest)
    assert asked.queues[number] in promises


def test_who_leaves_the_line_says_so() -> None:
    """Again when the news come that the call is in line, since it may not have been before."""
    asked = Asked()
    [number] = asked.ask()
    asked.sent()
    assert asked.in_flight.forget(number)
    assert [*asked.sent().given_up] == [number]
    asked.in_flight.answered([(number, Queued("ticket", WAITING))])
    assert [*asked.sent().given_up] == [number]
    asked.in_flight.answered([(number, LimiterUnavailable("", "cancelled"))], postpone=False)
    assert not asked.in_flight.has_given_up(number + 1)
    asked.ask()
    assert not asked.sent().given_up
    assert not [outcome for _, outcome in asked.unclaimed if isinstance(outcome, Grant)]


def test_what_left_the_line_of_a_lost_server_is_not_asked_for_again() -> None:
    """That server has given it up with all that it held."""
    asked = Asked()
    [number] = asked.ask()
    asked.sent()
    asked.in_flight.answered([(number, Queued("ticket", WAITING))])
    asked.in_flight.forget(number)
    asked.lose()
    assert asked.sent() in (AcquireStreamRequest(), AcquireStreamRequest(given_up=[number]))
    assert not asked.in_flight.has_given_up(number + 1)


def test_one_that_waits_long_keeps_nothing_of_those_that_came_after() -> None:
    """Runs are forgotten once all their calls are answered, or have tickets."""
    asked = Asked()
    [waits] = asked.ask()
    asked.sent()
    asked.in_flight.answered([(waits, Queued("ticket", WAITING))])
    for _ in range(100):
        numbers = asked.ask(3)
        asked.sent()
        asked.in_flight.answered([(number, GRANT) for number in numbers])
    assert not asked.in_flight._runs
    assert [*asked.in_flight._in_line] == [waits]
