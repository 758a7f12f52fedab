"""What every store promises of corrections, and of doing nothing twice."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from math import inf
from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openlimit.errors import InvalidRequest, WaitTooLong
from openlimit.leaky_bucket import SECOND, Decision
from openlimit.stores import (
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
from tests.clock import FakeClock
from tests.stores.contract import LIMITS, atold, demand, told, waits

_UNUSED = count()
LIFETIME = 960 * SECOND


def settlement(
    name: str, reserved: Sequence[float], actual: Sequence[float], bucket: str = "b"
) -> Settlement:
    """Of a reservation whose id is good for a quarter of an hour."""
    return Settlement(bucket, LIMITS, name, reserved, actual, LIFETIME)


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
        assert told(store, Withdrawal("b", LIMITS, "c", LIFETIME)) is True
        assert told(store, settlement("c", (1, 100), (1, 900))) is False
        assert waits(store.reserve([demand(costs=(1, 100), name="d")])) == [2]
        clock.advance(1)
        assert told(store, settlement("b", (1, 100), (1, 0))) is True
        assert told(store, Withdrawal("b", LIMITS, "b", LIFETIME)) is False
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
        assert told(store, settlement("late", (1, 100), (1, 300))) is True
        assert waits(store.reserve([demand(costs=(1, 100))])) == [2]

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
            Decision(0, "", "before"),
            True,
            True,
            Decision(3 * SECOND, "", ""),
            True,
            Decision(SECOND, "", ""),
        ]
        clock.advance(3)
        assert waits(store.reserve([demand("p", (10, 100))])) == [0]

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
        assert (first, other) == (Decision(0, "", "n"), Decision(SECOND, "tokens", "o"))
        assert again == Repeat(0, "", "n", 0, (1, 100))
        clock.advance(0.25)
        left = round(0.75 * SECOND)
        assert told(store, once("s", (1, 1))) == Repeat(left, "tokens", "o", SECOND, (1, 100))
        clock.advance(60)
        assert told(store, once("s")) == Repeat(0, "", "o", SECOND, (1, 100))
        assert told(store, once("r", name="new")) == Decision(0, "", "new")
        clock.advance(1)
        assert told(store, once("s", name="newer")) == Decision(0, "", "newer")

    def test_requests_of_different_buckets_are_different(self, store: Store) -> None:
        """The same id elsewhere is another request."""
        answers = store.decide([once("r")._replace(bucket=bucket) for bucket in "xyx"])
        assert [type(answer) for answer in answers] == [Decision, Decision, Repeat]

    def test_a_run_is_granted_once(self, store: Store, clock: FakeClock) -> None:
        """Each of its places, in whatever order and company it is asked again, whether it started
        at once or waits; places that were not asked before are new."""
        small = (0, 10)
        first = store.decide(in_run(range(8), small))
        assert waits(first) == [0] * 8
        clock.advance(0.1)
        more = store.decide(in_run([7, 12, 3, 9, 9, 8], small))
        assert waits(more) == [0, 0, 0]
        names = [each.reservation_id for each in first if isinstance(each, Decision)]
        assert more[0] == Repeat(0, "", names[7], 0, small)
        assert more[2] == Repeat(0, "", names[3], 0, small)
        assert isinstance(more[1], Decision)
        assert isinstance(more[3], Decision)
        assert more[4] == Repeat(0, "", more[3].reservation_id, 0, small)
        late = store.decide(in_run([20, 21], (0, 100)))
        again = store.decide(in_run([21, 20, 0], (0, 1)))
        for answer, granted in zip(again, [late[1], late[0]], strict=False):
            assert isinstance(granted, Decision)
            wait, by, name, *_ = granted
            assert wait
            assert answer == Repeat(wait, by, name, wait, (0, 100))
        assert again[2] == Repeat(0, "", names[0], 0, small)

    def test_a_run_is_remembered_for_as_long_as_was_asked(
        self, store: Store, clock: FakeClock
    ) -> None:
        """From when the latest of it was decided, however late it starts."""
        store.decide(in_run([0], (0, 500)))
        [waits_] = store.decide(in_run([1], (0, 500)))
        assert isinstance(waits_, Decision)
        clock.advance(4.9)
        assert [type(each) for each in store.decide(in_run([0, 1]))] == [Repeat, Repeat]
        clock.advance(0.1)
        assert [type(each) for each in store.decide(in_run([0, 1]))] == [Decision, Decision]

    def test_a_place_that_is_asked_twice_at_once_is_granted_once(self, store: Store) -> None:
        """In a run that is new, too."""
        one, two, again = store.decide(in_run([5, 6, 5], (0, 1)))
        assert isinstance(one, Decision)
        assert isinstance(two, Decision)
        assert again == Repeat(0, "", one.reservation_id, 0, (0, 1))

    def test_a_refused_request_may_be_granted_later(self, store: Store, clock: FakeClock) -> None:
        """What was not charged is not remembered."""
        store.reserve([demand(costs=(1, 100))])
        impatient = once("r", name="n")._replace(max_wait=0)
        assert isinstance(told(store, impatient), WaitTooLong)
        clock.advance(1)
        assert told(store, impatient) == Decision(0, "", "n")

    def test_a_request_that_was_cancelled_is_not_charged_again(self, store: Store) -> None:
        """A repeat that was long on its way is answered as before."""
        store.decide([once("r"), once("s", name="n")])
        assert told(store, Withdrawal("b", LIMITS, "n", LIFETIME)) is True
        assert told(store, once("s")) == Repeat(SECOND, "tokens", "n", SECOND, (1, 100))
        assert waits(store.reserve([demand(costs=(1, 100))])) == [1]

    def test_repeats_at_once_are_charged_once(self, store: Store) -> None:
        """Many threads ask with the same id: one is granted, all get its reservation."""
        with ThreadPoolExecutor(16) as threads:
            asked = [once("r", name=str(i)) for i in range(64)]
            answers = list(threads.map(lambda each: told(store, each), asked))
        [granted] = [answer for answer in answers if isinstance(answer, Decision)]
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
            answer = told(store, message._replace(bucket=single))
            assert told(store, message._replace(bucket=often)) == answer
            if isinstance(message, Demand) and isinstance(answer, Decision):
                granted[answer.reservation_id] = clock.now + answer.wait, message.costs
            if isinstance(message, Demand | Settlement | Withdrawal):
                sent += [message] * random.randint(0, 2)
            else:
                store.decide([message._replace(bucket=often)] * random.randint(0, 2))
            random.shuffle(sent)
            while sent and random.random() < 0.5:
                repeated = told(store, sent.pop()._replace(bucket=often))
                assert repeated is False or isinstance(repeated, Repeat)
        for message in sent:
            told(store, message._replace(bucket=often))
        for _ in range(2):
            probes = [told(store, demand(bucket, (0, 60))) for bucket in (single, often)]
            assert probes[0] == probes[1]


def some_message(
    random: Random, now: float, granted: dict[str, tuple[float, Sequence[float]]], step: str
) -> Question:
    """What a client could send next."""
    kind = random.choice(["demand", "demand", "close", "close", "pause", "observe"])
    if kind == "close" and granted:
        name = random.choice(list(granted))
        start, costs = granted.pop(name)
        if start > now:
            return Withdrawal("", LIMITS, name, LIFETIME)
        return settlement(name, costs, [random.choice([0, 0.5, 1.5]) * cost for cost in costs])
    if kind == "pause":
        return Pause("", LIMITS, random.randrange(SECOND))
    if kind == "observe":
        return Observation("", LIMITS, (inf, random.randrange(200)))
    return once(f"request {step}", (1, random.choice([10, 60, 200])), name=step)
