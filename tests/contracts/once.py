"""What every store promises of corrections, and of doing nothing twice."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlimit.bucket.limit import SECOND, Limit
from openlimit.errors import InvalidRequest, UnknownReservation, WaitTooLong
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Acquire,
    Cancel,
    Levels,
    Observe,
    Operation,
    Peek,
    Penalize,
    Repeat,
    Request,
    Secret,
    Settle,
    Store,
)
from tests.contracts.store import (
    LIMITS,
    Granted,
    aask_one,
    acquire,
    ask,
    ask_one,
    cancel,
    granted,
    waits,
)
from tests.support.clock import FakeClock

_UNUSED = count()
START = FakeClock().now


def settle(
    lot: str,
    reserved: Sequence[float],
    actual: Sequence[float],
    bucket: str = "b",
    start: float = START,
    number: int = 0,
) -> Settle:
    """One reservation, once, that started when the test did."""
    return Settle(bucket, LIMITS, lot, (number,), (start,), (reserved,), (actual,))


def settle_all(lot: str, numbers: Sequence[int], start: float = START) -> Settle:
    """Several of a lot, for what they have reserved."""
    costs = [(1, 1)] * len(numbers)
    return Settle("b", LIMITS, lot, numbers, [start] * len(numbers), costs, costs)


def once(request_id: str, costs: Sequence[float] = (1, 100), lot: str = "") -> Acquire:
    """One that is safe to repeat."""
    one = acquire(costs=costs, lot=lot or f"lot {next(_UNUSED)}")
    return one._replace(request=Request(request_id), places=(0,))


def in_run(
    places: Sequence[int], costs: Sequence[float] = (1, 100), kept: float | None = 5 * SECOND
) -> Acquire:
    """Those places of one run."""
    lot, request = f"lot {next(_UNUSED)}", Request("run", kept)
    return Acquire("b", LIMITS, [costs] * len(places), inf, lot, 0, request, places)


class OnceContract:
    """The tests. ``store`` is empty and reads the ``clock``."""

    def test_settling_replaces_the_cost_once(self, store: Store) -> None:
        """The bucket is what it would be had the call reserved what it used; repeats change
        nothing."""
        ask(store, [acquire(costs=(1, 400), lot="a")])
        assert ask_one(store, settle("a", (1, 400), (1, 100))) is True
        assert ask_one(store, settle("a", (1, 400), (1, 100))) is False
        assert ask_one(store, settle("a", (1, 400), (1, 0))) is False
        assert waits(ask(store, [acquire(costs=(1, 50), lot="b")])) == [0.5]
        assert ask_one(store, settle("b", (1, 50), (1, 60), bucket="other")) is True
        assert waits(ask(store, [acquire("other", (1, 100))])) == [0.1]

    async def test_settling_from_a_loop(self, store: Store) -> None:
        """The faces share what was settled."""
        ask(store, [acquire(costs=(1, 100), lot="a")])
        assert await aask_one(store, settle("a", (1, 100), (1, 0))) is True
        assert ask_one(store, settle("a", (1, 100), (1, 0))) is False
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [0]

    def test_what_has_not_started_is_not_settled(self, store: Store, clock: FakeClock) -> None:
        """It is told so and may be settled later; what was cancelled is not settled at all."""
        ask(store, [acquire(costs=(1, 100), lot=name) for name in "abc"])
        early = ask_one(store, settle("b", (1, 100), (1, 0)))
        assert isinstance(early, InvalidRequest)
        assert early.field == "reservation_id"
        assert ask_one(store, cancel("b", "c", START)) is True
        assert ask_one(store, settle("c", (1, 100), (1, 900))) is False
        assert waits(ask(store, [acquire(costs=(1, 100), lot="d")])) == [2]
        clock.advance(1)
        assert ask_one(store, settle("b", (1, 100), (1, 0))) is True
        assert ask_one(store, cancel("b", "b", START)) is False
        # Behind d's start, which stays, the level is less by b's cost.
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1]

    def test_a_settlement_outlives_its_bucket(self, store: Store, clock: FakeClock) -> None:
        """Though the bucket ran empty and was dropped, a repeat changes nothing; and a call that
        cost more than it reserved is charged."""
        ask(store, [acquire(costs=(1, 100), lot="a")])
        assert ask_one(store, settle("a", (1, 100), (1, 100))) is True
        clock.advance(600)
        for _ in range(5):
            ask(store, [acquire("other")])
        assert ask_one(store, settle("a", (1, 100), (1, 300))) is False
        assert waits(ask(store, [acquire(costs=(1, 100), lot="late")])) == [0]
        clock.advance(600)
        late = settle("late", (1, 100), (1, 300), start=START + 600 * SECOND)
        assert ask_one(store, late) is True
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [2]

    def test_a_settlement_comes_within_a_quarter_of_an_hour(
        self, store: Store, clock: FakeClock
    ) -> None:
        """From the start, by the store's clock; then it and a cancellation are too late, whatever
        came before. Where no start is given, the caller sees to that."""
        ask_one(store, settle_all("lot", [7]))
        clock.now = START + SETTLED_WITHIN - 1
        ask_one(store, settle_all("lot", [8]))
        asked = settle_all("lot", [7, 8, 9])
        assert ask(store, [asked]) == [False, False, True]
        clock.now += 1
        answers = ask(store, [asked, cancel("b", "lot", START, 7)])
        for answer, number in zip(answers, (7, 8, 9, 7), strict=True):
            assert isinstance(answer, UnknownReservation)
            assert (answer.reservation_id, answer.expired) == (f"lot-{number}", True)
            assert f"within {SETTLED_WITHIN // SECOND // 60} minutes" in str(answer)
        assert ask(store, [asked._replace(starts=None)]) == [True] * 3

    def test_reservations_of_a_lot_are_closed_each_for_itself(self, store: Store) -> None:
        """In any order, as far apart as they are numbered."""
        asked = settle_all("lot", [4095, 0, 1, 8, 7, 3])
        assert ask(store, [asked]) == [True] * 6
        others = settle_all("lot", [2, 4]), settle_all("let", [0])
        assert ask(store, [asked, *others]) == [False] * 6 + [True] * 3

    def test_of_a_column_each_is_settled_for_itself(self, store: Store, clock: FakeClock) -> None:
        """What was settled before, was cancelled, has not started or is too late changes nothing,
        and the others are settled; in several columns of one lot at once, too."""
        late = START - SETTLED_WITHIN
        costs = [(1, 40), (1, 60), (1, 100), (1, 100)]
        ask(store, [Acquire("b", LIMITS, costs, inf, "lot", 0), cancel("b", "lot", START, 3)])
        numbers, starts = [0, 1, 0, 2, 3, 9, 1, 8], [START] * 8
        starts[5] = late
        column = Settle(
            *("b", LIMITS, "lot", numbers, starts),
            *([(1, 100)] * 8, [(1, 80)] * 8),
        )
        first, second = [
            column._replace(
                numbers=numbers[i:j],
                starts=starts[i:j],
                reserved=[(1, 100)] * 4,
                actual=[(1, 80)] * 4,
            )
            for i, j in ((0, 4), (4, 8))
        ]
        outcomes = ask(store, [first, second])
        assert [
            outcome if isinstance(outcome, bool) else type(outcome) for outcome in outcomes
        ] == [
            True,
            True,
            False,
            InvalidRequest,
            False,
            UnknownReservation,
            False,
            True,
        ]
        assert ask(store, [column])[:3] == [False] * 3
        # Behind the start of the one that waits, 60 less.
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1.4]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        changes=st.lists(st.sampled_from([-90, -30.5, 0, 7.25, 50, 9000, 10**12]), max_size=20),
        waiting=st.integers(0, 3),
    )
    def test_a_column_is_settled_as_one_by_one(
        self, store: Store, clock: FakeClock, changes: list[float], waiting: int
    ) -> None:
        """However empty or full the bucket becomes on the way."""
        name, costs = f"column {next(_UNUSED)}", [(1, 100)] * len(changes)
        actual = [(1, 100 + change) for change in changes]
        for bucket in (name, name + "'"):
            ask(store, [acquire(bucket, (1, 50))] + [acquire(bucket, (1, 80), lot="w")] * waiting)
        numbers, starts = range(len(changes)), [START] * len(changes)
        column = Settle(name, LIMITS, name, numbers, starts, costs, actual)
        ask(store, [column])
        ask(
            store,
            [
                settle(name + "'", (1, 100), cost, name + "'", number=i)
                for i, cost in enumerate(actual)
            ],
        )
        probes = [ask_one(store, acquire(bucket, (1, 60))) for bucket in (name, name + "'")]
        assert probes[0] == probes[1]

    def test_a_pause_holds_everybody(self, store: Store, clock: FakeClock) -> None:
        """Nothing new starts before its end, a shorter one changes nothing, and what was granted
        before stays."""
        outcomes = ask(
            store,
            [
                acquire("p", lot="before"),
                Penalize("p", LIMITS, 3 * SECOND),
                Penalize("p", LIMITS, SECOND),
                acquire("p", (0, 0)),
                Penalize("new", LIMITS, SECOND),
                acquire("new", (0, 0)),
            ],
        )
        assert outcomes == [
            granted(clock, 0, "", "before"),
            True,
            True,
            granted(clock, 3 * SECOND),
            True,
            granted(clock, SECOND),
        ]
        clock.advance(3)
        assert waits(ask(store, [acquire("p", (10, 100))])) == [0]

    def test_a_pause_can_be_lifted(self, store: Store, clock: FakeClock) -> None:
        """And nothing but the pause: what was reserved, before it or meanwhile, starts when it was
        told to, in order, and is followed by what is asked from then on."""
        lift, day = Penalize("b", LIMITS, 0), Penalize("b", LIMITS, 86400 * SECOND)
        ask(store, [acquire(costs=(1, 100)), acquire(costs=(1, 100), lot="before"), day])
        clock.advance(0.5)
        assert ask_one(store, lift) is True
        assert waits(ask(store, [acquire(costs=(1, 100), lot="after")])) == [1.5]
        assert ask_one(store, cancel("b", "after")) is True
        ask(store, [day, acquire(costs=(1, 100), lot="meanwhile"), lift])
        assert waits(ask(store, [acquire(costs=(0, 0))])) == [86400]
        assert ask_one(store, cancel("b", "meanwhile")) is True

    def test_what_gave_up_in_a_pause_is_gone_once_it_is_lifted(self, store: Store) -> None:
        """As if it had never asked; while the pause lasts, that stays."""
        day = Penalize("b", LIMITS, 86400 * SECOND)
        ask(store, [acquire(costs=(1, 100)), day, acquire(costs=(1, 100), lot="x")])
        assert ask_one(store, cancel("b", "x")) is True
        assert waits(ask(store, [acquire(costs=(1, 100), lot="x")])) == [86400]
        assert ask_one(store, cancel("b", "x")) is True
        assert ask_one(store, Penalize("b", LIMITS, 0)) is True
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1]

    def test_settling_holds_nobody_up_for_longer_than_a_day(self, store: Store) -> None:
        """However many calls cost however much; a call that cost more than the whole amount counts
        as such."""
        ask(store, [settle("a", (1, 6000), (1, 9000))])
        assert waits(ask(store, [acquire(costs=(0, 100))])) == [30]
        for name in "bcd":
            ask_one(store, settle(name, (1, 1), (2**62, 10.0**30), bucket="c"))
        [wait] = waits(ask(store, [acquire("c", (1, 1))]))
        assert 86400 < wait < 86400 + 120

    def test_smaller_limits_hold_nobody_up_for_longer_than_a_day(self, store: Store) -> None:
        """Levels stay, in units, as far as that."""
        large, small = Limit.per("tokens", 10**9, 86400), Limit.per("tokens", 10, 86400)
        ask(store, [Acquire("b", (large,), ((10**9,),), inf, "", 0)])
        [outcome] = ask(store, [Acquire("b", (small,), ((1,),), inf, "", 0)])
        assert waits([outcome]) == [pytest.approx(86400 + 8640)]

    def test_an_observation_only_ever_delays(self, store: Store) -> None:
        """The level rises to what the provider says remains, less a second's headroom, and does not
        fall."""
        assert ask_one(store, Observe("b", LIMITS, (inf, 140))) is True
        assert ask_one(store, Observe("b", LIMITS, (19, 190))) is True
        assert ask_one(store, Observe("b", LIMITS, (inf, inf))) is True
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [0.6]

    def test_a_peek_tells_how_full_the_bucket_is(self, store: Store, clock: FakeClock) -> None:
        """And leaves it so: now, or when the latest start that was given comes, or the pause ends;
        above the capacity where more was used."""
        peek = Peek("b", LIMITS)
        assert ask_one(store, peek) == Levels(0, (0, 0))
        assert ask(store, [acquire(costs=(1, 60)), peek, peek])[1:] == [Levels(0, (1, 60))] * 2
        clock.advance(0.05)
        assert ask_one(store, peek) == Levels(0, (0.5, 55))
        [_, levels] = ask(store, [acquire(costs=(1, 100)), peek])
        assert levels == Levels(0.55 * SECOND, (1, 100))
        ask(store, [Penalize("b", LIMITS, 2 * SECOND)])
        assert ask_one(store, peek) == Levels(2 * SECOND, (0, 0))
        used = Settle("c", LIMITS, "", (0,), None, ((0, 0),), ((0, 250),))
        assert ask(store, [used, Peek("c", LIMITS)])[1] == Levels(0, (0, 250))

    def test_a_request_is_granted_once(self, store: Store, clock: FakeClock) -> None:
        """A repeat is answered with what is left of the wait, under the first one's name; in one
        batch, and until a minute after the start."""
        first, again, other = ask(store, [once("r", lot="n"), once("r"), once("s", lot="o")])
        assert (first, other) == (granted(clock, 0, "", "n"), granted(clock, SECOND, "tokens", "o"))
        assert again == Repeat(0, "", "n", 0, START, (1, 100))
        clock.advance(0.25)
        left = round(0.75 * SECOND)
        assert ask_one(store, once("s", (1, 1))) == Repeat(
            left, "tokens", "o", 0, START + SECOND, (1, 100)
        )
        clock.advance(60)
        assert ask_one(store, once("s")) == Repeat(0, "", "o", 0, START + SECOND, (1, 100))
        assert ask_one(store, once("r", lot="new")) == granted(clock, 0, "", "new")
        clock.advance(1)
        assert ask_one(store, once("s", lot="newer")) == granted(clock, 0, "", "newer")

    def test_requests_of_different_buckets_are_different(self, store: Store) -> None:
        """The same id elsewhere is another request."""
        answers = ask(store, [once("r")._replace(bucket=bucket) for bucket in "xyx"])
        assert [type(answer) for answer in answers] == [Granted, Granted, Repeat]

    def test_a_run_is_granted_once(self, store: Store, clock: FakeClock) -> None:
        """Each of its places, in whatever order and company it is asked again, whether it started
        at once or waits; places that were not asked before are new."""
        small = (0, 10)
        first = ask(store, [in_run(range(8), small)])
        assert waits(first) == [0] * 8
        clock.advance(0.1)
        more = ask(store, [in_run([7, 12, 3, 9, 9, 8], small)])
        assert waits(more) == [0, 0, 0]
        names = [each[2:4] for each in first if isinstance(each, Granted)]
        assert more[0] == Repeat(0, "", *names[7], START, small)
        assert more[2] == Repeat(0, "", *names[3], START, small)
        assert isinstance(more[1], Granted)
        assert isinstance(more[3], Granted)
        assert more[4] == Repeat(0, "", *more[3][2:4], clock.now, small)
        late = ask(store, [in_run([20, 21], (0, 100))])
        again = ask(store, [in_run([21, 20, 0], (0, 1))])
        for answer, before in zip(again, [late[1], late[0]], strict=False):
            assert isinstance(before, Granted)
            assert before.wait
            assert answer == Repeat(*before, (0, 100))
        assert again[2] == Repeat(0, "", *names[0], START, small)

    def test_a_run_is_remembered_for_as_long_as_was_asked(
        self, store: Store, clock: FakeClock
    ) -> None:
        """From when the latest of it was decided, however late it starts."""
        ask(store, [in_run([0], (0, 500))])
        [waits_] = ask(store, [in_run([1], (0, 500))])
        assert isinstance(waits_, Granted)
        clock.advance(4.9)
        assert [type(each) for each in ask(store, [in_run([0, 1])])] == [Repeat, Repeat]
        clock.advance(0.1)
        assert [type(each) for each in ask(store, [in_run([0, 1])])] == [Granted, Granted]

    def test_a_place_that_is_asked_twice_at_once_is_granted_once(self, store: Store) -> None:
        """In a run that is new, too."""
        one, two, again = ask(store, [in_run([5, 6, 5], (0, 1))])
        assert isinstance(one, Granted)
        assert isinstance(two, Granted)
        assert again == Repeat(0, "", *one[2:4], START, (0, 1))

    def test_a_refused_request_may_be_granted_later(self, store: Store, clock: FakeClock) -> None:
        """What was not charged is not remembered."""
        ask(store, [acquire(costs=(1, 100))])
        impatient = once("r", lot="n")._replace(max_wait=0)
        assert isinstance(ask_one(store, impatient), WaitTooLong)
        clock.advance(1)
        assert ask_one(store, impatient) == granted(clock, 0, "", "n")

    def test_a_request_that_was_cancelled_stays_so(self, store: Store, clock: FakeClock) -> None:
        """A repeat is told, however often, and neither granted nor charged; others of the run are
        granted as before."""
        ask(store, [once("r"), once("s", lot="lot"), in_run([0, 1])])
        [_, before] = ask(store, [in_run([0, 1])])
        assert isinstance(before, Repeat)
        for lot, number in ((before.lot, before.number), ("lot", 0)):
            assert ask_one(store, cancel("b", lot, START, number)) is True
        clock.advance(0.5)
        answers = ask(store, [once("s"), in_run([1, 0, 1]), once("s"), once("r")])
        for answer in (answers[0], answers[1], answers[3], answers[4]):
            assert isinstance(answer, InvalidRequest)
            assert (answer.field, "cancelled" in answer.reason) == ("request_id", True)
        assert [type(answers[i]) for i in (2, 5)] == [Repeat, Repeat]
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [2.5]

    def test_repeats_at_once_are_charged_once(self, store: Store) -> None:
        """Many threads ask with the same id: one is granted, all get its reservation."""
        with ThreadPoolExecutor(16) as threads:
            asked = [once("r", lot=str(i)) for i in range(64)]
            answers = list(threads.map(lambda each: ask_one(store, each), asked))
        [granted] = [answer for answer in answers if isinstance(answer, Granted)]
        assert {each.lot for each in answers if isinstance(each, Repeat)} == {granted.lot}
        assert waits(ask(store, [acquire(costs=(1, 100))])) == [1]

    async def test_the_first_secret_stays(self, store: Store) -> None:
        """All who ask are told the same."""
        assert ask_one(store, Secret("first")) == "first"
        assert await aask_one(store, Secret("second")) == "first"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(random=st.randoms(use_true_random=False))
    def test_messages_sent_up_to_three_times_count_once(
        self, store: Store, clock: FakeClock, random: Random
    ) -> None:
        """However late its repeats arrive, each message has the effect that it had at first.

        A pause and an observation speak of the moment at which they arrive: repeated at once.
        """
        single, often = f"single {next(_UNUSED)}", f"often {next(_UNUSED)}"
        sent, granted = list[Operation](), dict[str, tuple[float, Sequence[float]]]()
        for step in range(random.randint(1, 12)):
            clock.advance(random.choice([0, 0, 0.1, 1]))
            message = some_message(random, clock.now, granted, str(step))
            answer = ask_one(store, in_bucket(single, message))
            same = ask_one(store, in_bucket(often, message))
            assert repr(same).replace(often, single) == repr(answer)
            if isinstance(message, Acquire) and isinstance(answer, Granted):
                granted[message.lot] = answer.start, message.costs[0]
            if isinstance(message, Acquire | Settle | Cancel):
                sent += [message] * random.randint(0, 2)
            else:
                ask(store, [in_bucket(often, message)] * random.randint(0, 2))
            random.shuffle(sent)
            while sent and random.random() < 0.5:
                repeated = ask_one(store, in_bucket(often, sent.pop()))
                assert repeated is False or isinstance(repeated, Repeat | InvalidRequest)
        for message in sent:
            ask_one(store, in_bucket(often, message))
        for _ in range(2):
            probes = [ask_one(store, acquire(bucket, (0, 60))) for bucket in (single, often)]
            assert probes[0] == probes[1]


def in_bucket(bucket: str, message: Operation) -> Operation:
    """Of a reservation that is only there."""
    if isinstance(message, Acquire | Settle | Cancel):
        return message._replace(bucket=bucket, lot=f"{bucket} {message.lot}")
    return message._replace(bucket=bucket)


def some_message(
    random: Random, now: float, granted: dict[str, tuple[float, Sequence[float]]], step: str
) -> Operation:
    """What a client could send next."""
    kind = random.choice(["acquire", "acquire", "close", "close", "penalize", "observe"])
    if kind == "close" and granted:
        name = random.choice(list(granted))
        start, costs = granted.pop(name)
        if start > now:
            return cancel("", name, start)
        actual = [random.choice([0, 0.5, 1.5]) * cost for cost in costs]
        return settle(name, costs, actual, start=start)
    if kind == "penalize":
        return Penalize("", LIMITS, random.randrange(SECOND))
    if kind == "observe":
        return Observe("", LIMITS, (inf, random.randrange(200)))
    return once(f"request {step}", (1, random.choice([10, 60, 200])), lot=f"lot {step}")
