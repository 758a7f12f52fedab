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
from openlimit.operations import Grant
from openlimit.stores.protocol import (
    SETTLED_WITHIN,
    Demand,
    Observation,
    Pause,
    Question,
    Repeat,
    Request,
    Secret,
    Settlement,
    Store,
    Withdrawal,
)
from tests.contracts.store import LIMITS, atold, demand, granted, told, waits
from tests.support.clock import FakeClock

_UNUSED = count()
START = FakeClock().now


def settlement(
    name: str,
    reserved: Sequence[float],
    actual: Sequence[float],
    bucket: str = "b",
    start: float = START,
) -> Settlement:
    """Of a reservation that is settled once, which started when the test did."""
    return Settlement(bucket, LIMITS, name, reserved, actual, start)


def once(request_id: str, costs: Sequence[float] = (1, 100), name: str = "") -> Demand:
    """One that is safe to repeat."""
    request = Request(request_id)
    return demand(costs=costs, name=name or f"name {next(_UNUSED)}")._replace(request=request)


def in_run(
    places: Sequence[int], costs: Sequence[float] = (1, 100), kept: float | None = 5 * SECOND
) -> list[Demand]:
    """Those places of one run."""
    request = Request("run", kept)
    named = [demand(costs=costs, name=f"at {place}, {next(_UNUSED)}") for place in places]
    return [
        each._replace(request=request, place=place)
        for each, place in zip(named, places, strict=True)
    ]


class OnceContract:
    """The tests. ``store`` is empty and reads the ``clock``."""

    def test_settling_replaces_the_cost_once(self, store: Store) -> None:
        """The bucket is what it would be had the call reserved what it used; repeats change
        nothing."""
        store.reserve([demand(costs=(1, 400), name="a")])
        assert told(store, settlement("a", (1, 400), (1, 100))) is True
        assert told(store, settlement("a", (1, 400), (1, 100))) is False
        assert told(store, settlement("a", (1, 400), (1, 0))) is False
        assert waits(store.reserve([demand(costs=(1, 50), name="b")])) == [0.5]
        assert told(store, settlement("b", (1, 50), (1, 60), bucket="other")) is True
        assert waits(store.reserve([demand("other", (1, 100))])) == [0.1]

    async def test_settling_from_a_loop(self, store: Store) -> None:
        """The faces share what was settled."""
        store.reserve([demand(costs=(1, 100), name="a")])
        assert await atold(store, settlement("a", (1, 100), (1, 0))) is True
        assert told(store, settlement("a", (1, 100), (1, 0))) is False
        assert waits(store.reserve([demand(costs=(1, 100))])) == [0]

    def test_what_has_not_started_is_not_settled(self, store: Store, clock: FakeClock) -> None:
        """It is told so and may be settled later; what was cancelled is not settled at all."""
        store.reserve([demand(costs=(1, 100), name=name) for name in "abc"])
        early = told(store, settlement("b", (1, 100), (1, 0)))
        assert isinstance(early, InvalidRequest)
        assert early.field == "reservation_id"
        assert told(store, Withdrawal("b", LIMITS, "c", START)) is True
        assert told(store, settlement("c", (1, 100), (1, 900))) is False
        assert waits(store.reserve([demand(costs=(1, 100), name="d")])) == [2]
        clock.advance(1)
        assert told(store, settlement("b", (1, 100), (1, 0))) is True
        assert told(store, Withdrawal("b", LIMITS, "b", START)) is False
        # Behind d's start, which stays, the level is less by b's cost.
        assert waits(store.reserve([demand(costs=(1, 100))])) == [1]

    def test_a_settlement_outlives_its_bucket(self, store: Store, clock: FakeClock) -> None:
        """Though the bucket ran empty and was dropped, a repeat changes nothing; and a call that
        cost more than it reserved is charged."""
        store.reserve([demand(costs=(1, 100), name="a")])
        assert told(store, settlement("a", (1, 100), (1, 100))) is True
        clock.advance(600)
        for _ in range(5):
            store.reserve([demand("other")])
        assert told(store, settlement("a", (1, 100), (1, 300))) is False
        assert waits(store.reserve([demand(costs=(1, 100), name="late")])) == [0]
        clock.advance(600)
        late = settlement("late", (1, 100), (1, 300), start=START + 600 * SECOND)
        assert told(store, late) is True
        assert waits(store.reserve([demand(costs=(1, 100))])) == [2]

    def test_a_settlement_comes_within_a_quarter_of_an_hour(
        self, store: Store, clock: FakeClock
    ) -> None:
        """From the start, by the store's clock; then it and a cancellation are too late, whatever
        came before. Where no start is given, the caller sees to that."""
        told(store, settlement("lot-7", (1, 100), (1, 100)))
        clock.now = START + SETTLED_WITHIN - 1
        told(store, settlement("lot-8", (1, 100), (1, 100)))
        asked = [settlement(f"lot-{i}", (1, 100), (1, 100)) for i in (7, 8, 9)]
        assert store.decide(asked) == [False, False, True]
        clock.now += 1
        withdrawal = Withdrawal("b", LIMITS, "lot-7", START)
        for answer, number in zip(store.decide([*asked, withdrawal]), (7, 8, 9, 7), strict=True):
            assert isinstance(answer, UnknownReservation)
            assert (answer.reservation_id, answer.expired) == (f"lot-{number}", True)
        assert told(store, asked[0]._replace(start=None)) is True

    def test_reservations_of_a_lot_are_closed_each_for_itself(self, store: Store) -> None:
        """In any order, as far apart as they are numbered."""
        asked = [settlement(f"lot-{i}", (1, 1), (1, 1)) for i in (4095, 0, 1, 8, 7, 3)]
        assert store.decide(asked) == [True] * 6
        others = [settlement(name, (1, 1), (1, 1)) for name in ("lot-2", "lot-4", "let-0")]
        assert store.decide([*asked, *others]) == [False] * 6 + [True] * 3

    def test_a_pause_holds_everybody(self, store: Store, clock: FakeClock) -> None:
        """Nothing new starts before its end, a shorter one changes nothing, and what was granted
        before stays."""
        outcomes = store.decide(
            [
                demand("p", name="before"),
                Pause("p", LIMITS, 3 * SECOND),
                Pause("p", LIMITS, SECOND),
                demand("p", (0, 0)),
                Pause("new", LIMITS, SECOND),
                demand("new", (0, 0)),
            ]
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
        assert waits(store.reserve([demand("p", (10, 100))])) == [0]

    def test_a_pause_can_be_lifted(self, store: Store, clock: FakeClock) -> None:
        """And nothing but the pause: what was reserved, before it or meanwhile, starts when it was
        told to, in order, and is followed by what is asked from then on."""
        lift, day = Pause("b", LIMITS, 0), Pause("b", LIMITS, 86400 * SECOND)
        store.decide([demand(costs=(1, 100)), demand(costs=(1, 100), name="before"), day])
        clock.advance(0.5)
        assert told(store, lift) is True
        assert waits(store.reserve([demand(costs=(1, 100), name="after")])) == [1.5]
        assert told(store, Withdrawal("b", LIMITS, "after")) is True
        store.decide([day, demand(costs=(1, 100), name="meanwhile"), lift])
        assert waits(store.reserve([demand(costs=(0, 0))])) == [86400]
        assert told(store, Withdrawal("b", LIMITS, "meanwhile")) is True

    def test_what_gave_up_in_a_pause_is_gone_once_it_is_lifted(self, store: Store) -> None:
        """As if it had never asked; while the pause lasts, that stays."""
        day = Pause("b", LIMITS, 86400 * SECOND)
        store.decide([demand(costs=(1, 100)), day, demand(costs=(1, 100), name="x")])
        assert told(store, Withdrawal("b", LIMITS, "x")) is True
        assert waits(store.reserve([demand(costs=(1, 100), name="x")])) == [86400]
        assert told(store, Withdrawal("b", LIMITS, "x")) is True
        assert told(store, Pause("b", LIMITS, 0)) is True
        assert waits(store.reserve([demand(costs=(1, 100))])) == [1]

    def test_settling_holds_nobody_up_for_longer_than_a_day(self, store: Store) -> None:
        """However many calls cost however much; a call that cost more than the whole amount counts
        as such."""
        store.decide([settlement("a", (1, 6000), (1, 9000))])
        assert waits(store.reserve([demand(costs=(0, 100))])) == [30]
        for name in "bcd":
            told(store, settlement(name, (1, 1), (2**62, 10.0**30), bucket="c"))
        [wait] = waits(store.reserve([demand("c", (1, 1))]))
        assert 86400 < wait < 86400 + 120

    def test_smaller_limits_hold_nobody_up_for_longer_than_a_day(self, store: Store) -> None:
        """Levels stay, in units, as far as that."""
        large, small = Limit.per("tokens", 10**9, 86400), Limit.per("tokens", 10, 86400)
        store.reserve([Demand("b", (large,), (10**9,), inf, "")])
        [outcome] = store.reserve([Demand("b", (small,), (1,), inf, "")])
        assert waits([outcome]) == [pytest.approx(86400 + 8640)]

    def test_an_observation_only_ever_delays(self, store: Store) -> None:
        """The level rises to what the provider says remains, less a second's headroom, and does not
        fall."""
        assert told(store, Observation("b", LIMITS, (inf, 140))) is True
        assert told(store, Observation("b", LIMITS, (19, 190))) is True
        assert told(store, Observation("b", LIMITS, (inf, inf))) is True
        assert waits(store.reserve([demand(costs=(1, 100))])) == [0.6]

    def test_a_request_is_granted_once(self, store: Store, clock: FakeClock) -> None:
        """A repeat is answered with what is left of the wait, under the first one's name; in one
        batch, and until a minute after the start."""
        first, again, other = store.decide([once("r", name="n"), once("r"), once("s", name="o")])
        assert (first, other) == (granted(clock, 0, "", "n"), granted(clock, SECOND, "tokens", "o"))
        assert again == Repeat(0, "", "n", START, (1, 100))
        clock.advance(0.25)
        left = round(0.75 * SECOND)
        assert told(store, once("s", (1, 1))) == Repeat(
            left, "tokens", "o", START + SECOND, (1, 100)
        )
        clock.advance(60)
        assert told(store, once("s")) == Repeat(0, "", "o", START + SECOND, (1, 100))
        assert told(store, once("r", name="new")) == granted(clock, 0, "", "new")
        clock.advance(1)
        assert told(store, once("s", name="newer")) == granted(clock, 0, "", "newer")

    def test_requests_of_different_buckets_are_different(self, store: Store) -> None:
        """The same id elsewhere is another request."""
        answers = store.decide([once("r")._replace(bucket=bucket) for bucket in "xyx"])
        assert [type(answer) for answer in answers] == [Grant, Grant, Repeat]

    def test_a_run_is_granted_once(self, store: Store, clock: FakeClock) -> None:
        """Each of its places, in whatever order and company it is asked again, whether it started
        at once or waits; places that were not asked before are new."""
        small = (0, 10)
        first = store.decide(in_run(range(8), small))
        assert waits(first) == [0] * 8
        clock.advance(0.1)
        more = store.decide(in_run([7, 12, 3, 9, 9, 8], small))
        assert waits(more) == [0, 0, 0]
        names = [each.reservation_id for each in first if isinstance(each, Grant)]
        assert more[0] == Repeat(0, "", names[7], START, small)
        assert more[2] == Repeat(0, "", names[3], START, small)
        assert isinstance(more[1], Grant)
        assert isinstance(more[3], Grant)
        assert more[4] == Repeat(0, "", more[3].reservation_id, clock.now, small)
        late = store.decide(in_run([20, 21], (0, 100)))
        again = store.decide(in_run([21, 20, 0], (0, 1)))
        for answer, before in zip(again, [late[1], late[0]], strict=False):
            assert isinstance(before, Grant)
            assert before.wait
            assert answer == Repeat(*before[:3], clock.now + before.wait, (0, 100))
        assert again[2] == Repeat(0, "", names[0], START, small)

    def test_a_run_is_remembered_for_as_long_as_was_asked(
        self, store: Store, clock: FakeClock
    ) -> None:
        """From when the latest of it was decided, however late it starts."""
        store.decide(in_run([0], (0, 500)))
        [waits_] = store.decide(in_run([1], (0, 500)))
        assert isinstance(waits_, Grant)
        clock.advance(4.9)
        assert [type(each) for each in store.decide(in_run([0, 1]))] == [Repeat, Repeat]
        clock.advance(0.1)
        assert [type(each) for each in store.decide(in_run([0, 1]))] == [Grant, Grant]

    def test_a_place_that_is_asked_twice_at_once_is_granted_once(self, store: Store) -> None:
        """In a run that is new, too."""
        one, two, again = store.decide(in_run([5, 6, 5], (0, 1)))
        assert isinstance(one, Grant)
        assert isinstance(two, Grant)
        assert again == Repeat(0, "", one.reservation_id, START, (0, 1))

    def test_a_refused_request_may_be_granted_later(self, store: Store, clock: FakeClock) -> None:
        """What was not charged is not remembered."""
        store.reserve([demand(costs=(1, 100))])
        impatient = once("r", name="n")._replace(max_wait=0)
        assert isinstance(told(store, impatient), WaitTooLong)
        clock.advance(1)
        assert told(store, impatient) == granted(clock, 0, "", "n")

    def test_a_request_that_was_cancelled_stays_so(self, store: Store, clock: FakeClock) -> None:
        """A repeat is told, however often, and neither granted nor charged; others of the run are
        granted as before."""
        store.decide([once("r"), once("s", name="lot-5"), *in_run([0, 1])])
        [_, before] = store.decide(in_run([0, 1]))
        assert isinstance(before, Repeat)
        for name in (before.reservation_id, "lot-5"):
            assert told(store, Withdrawal("b", LIMITS, name, START)) is True
        clock.advance(0.5)
        answers = store.decide([once("s"), *in_run([1, 0, 1]), once("s"), once("r")])
        for answer in (answers[0], answers[1], answers[3], answers[4]):
            assert isinstance(answer, InvalidRequest)
            assert (answer.field, "cancelled" in answer.reason) == ("request_id", True)
        assert [type(answers[i]) for i in (2, 5)] == [Repeat, Repeat]
        assert waits(store.reserve([demand(costs=(1, 100))])) == [2.5]

    def test_repeats_at_once_are_charged_once(self, store: Store) -> None:
        """Many threads ask with the same id: one is granted, all get its reservation."""
        with ThreadPoolExecutor(16) as threads:
            asked = [once("r", name=str(i)) for i in range(64)]
            answers = list(threads.map(lambda each: told(store, each), asked))
        [granted] = [answer for answer in answers if isinstance(answer, Grant)]
        assert {a.reservation_id for a in answers if isinstance(a, Repeat)} == {
            granted.reservation_id
        }
        assert waits(store.reserve([demand(costs=(1, 100))])) == [1]

    async def test_the_first_secret_stays(self, store: Store) -> None:
        """All who ask are told the same."""
        assert told(store, Secret("first")) == "first"
        assert await atold(store, Secret("second")) == "first"

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(random=st.randoms(use_true_random=False))
    def test_messages_sent_up_to_three_times_count_once(
        self, store: Store, clock: FakeClock, random: Random
    ) -> None:
        """However late its repeats arrive, each message has the effect that it had at first.

        A pause and an observation speak of the moment at which they arrive: repeated at once.
        """
        single, often = f"single {next(_UNUSED)}", f"often {next(_UNUSED)}"
        sent, granted = list[Question](), dict[str, tuple[float, Sequence[float]]]()
        for step in range(random.randint(1, 12)):
            clock.advance(random.choice([0, 0, 0.1, 1]))
            message = some_message(random, clock.now, granted, str(step))
            answer = told(store, in_bucket(single, message))
            same = told(store, in_bucket(often, message))
            assert repr(same).replace(often, single) == repr(answer)
            if isinstance(message, Demand) and isinstance(answer, Grant):
                granted[message.reservation_id] = answer.start, message.costs
            if isinstance(message, Demand | Settlement | Withdrawal):
                sent += [message] * random.randint(0, 2)
            else:
                store.decide([in_bucket(often, message)] * random.randint(0, 2))
            random.shuffle(sent)
            while sent and random.random() < 0.5:
                repeated = told(store, in_bucket(often, sent.pop()))
                assert repeated is False or isinstance(repeated, Repeat | InvalidRequest)
        for message in sent:
            told(store, in_bucket(often, message))
        for _ in range(2):
            probes = [told(store, demand(bucket, (0, 60))) for bucket in (single, often)]
            assert probes[0] == probes[1]


def in_bucket(bucket: str, message: Question) -> Question:
    """Of a reservation that is only there."""
    if isinstance(message, Demand | Settlement | Withdrawal):
        name = f"{bucket} {message.reservation_id}"
        return message._replace(bucket=bucket, reservation_id=name)
    return message._replace(bucket=bucket)


def some_message(
    random: Random, now: float, granted: dict[str, tuple[float, Sequence[float]]], step: str
) -> Question:
    """What a client could send next."""
    kind = random.choice(["demand", "demand", "close", "close", "pause", "observe"])
    if kind == "close" and granted:
        name = random.choice(list(granted))
        start, costs = granted.pop(name)
        if start > now:
            return Withdrawal("", LIMITS, name, start)
        actual = [random.choice([0, 0.5, 1.5]) * cost for cost in costs]
        return settlement(name, costs, actual, start=start)
    if kind == "pause":
        return Pause("", LIMITS, random.randrange(SECOND))
    if kind == "observe":
        return Observation("", LIMITS, (inf, random.randrange(200)))
    return once(f"request {step}", (1, random.choice([10, 60, 200])), name=f"lot-{step}")
