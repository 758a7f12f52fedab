"""The front end and the local limiters: the seed's API, waiting, giving back."""

import asyncio
import inspect
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Any, cast

import pytest

from openlimit import (
    ChatRateLimiter,
    CompletionRateLimiter,
    CostExceedsLimit,
    EmbeddingRateLimiter,
    InvalidRequest,
    WaitTooLong,
)
from openlimit.bucket.limit import SECOND
from openlimit.operations import Acquire, Grant, Release, Report
from openlimit.reservation import OnWaiting
from openlimit.stores.memory import MemoryStore
from openlimit.tokens.counting import count_tokens
from tests.support.calls import a_call
from tests.support.clock import FakeClock

CHAT: Any = {"model": "gpt-4", "messages": [{"role": "user", "content": "Hello!"}]}


class Slots(ChatRateLimiter):
    """Counts the slots that are taken, as if concurrency were limited."""

    taken = 0

    def acquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        self.taken += 1
        return super().acquire(call)._replace(lease=30, wait=0)

    async def aacquire(self, call: Acquire, _: OnWaiting | None = None) -> Grant:
        return self.acquire(call)

    def tell(self, operation: Report) -> None:
        self.taken -= isinstance(operation, Release)


@pytest.mark.parametrize(
    ("kind", "token_limit"),
    [
        (ChatRateLimiter, 90_000),
        (CompletionRateLimiter, 350_000),
        (EmbeddingRateLimiter, 70_000_000),
    ],
)
def test_the_seeds_signatures(kind: Any, token_limit: int) -> None:
    """Names, order and defaults of the parameters are those of the library this one succeeds."""
    defaults = {name: p.default for name, p in inspect.signature(kind).parameters.items()}
    assert list(defaults.items()) == [
        ("request_limit", 3500),
        ("token_limit", token_limit),
        ("bucket_size_in_seconds", 1),
    ]
    assert f"3500 requests and {token_limit:g} tokens a minute" in repr(kind())
    assert (kind().request_limit, kind().token_limit) == (3500, token_limit)
    assert (kind(20, 80_000).request_limit, kind(20, 80_000).token_limit) == (20, 80_000)


FIELDS = ["request_limit", "token_limit", "bucket_size_in_seconds"]


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf"), "60", None, True])
@pytest.mark.parametrize("field", FIELDS)
def test_a_limit_that_is_none_is_refused_at_once(field: str, bad: Any) -> None:
    """Construction fails with the parameter and the value."""
    with pytest.raises(InvalidRequest, match=f"{field}: must be a number above 0, not {bad!r}"):
        ChatRateLimiter(**{field: bad})


HUGE = [10**400, -(10**400), 10**5000, -(10**5000), [10**5000]]


def test_a_limit_that_is_too_large_or_small_is_refused_at_once() -> None:
    """Those that the arithmetic could not hold, and those that Python cannot even write out."""
    for field in FIELDS:
        for bad in (*HUGE, 1e308, 5e-324):
            with pytest.raises(InvalidRequest, match=f"^{field}: .* from 1e-100 to 1e\\+100"):
                ChatRateLimiter(**{field: cast(Any, bad)})
        extremes: Any = dict.fromkeys(FIELDS, 1e100) | {field: 1e-100}
        with ChatRateLimiter(**extremes).limit(tokens=0, units={"requests": 0}) as reservation:
            assert reservation.wait == 0


@pytest.mark.parametrize("huge", HUGE, ids=range(len(HUGE)))
def test_a_number_of_any_size_is_taken_or_refused(huge: Any) -> None:
    """By all that take one: InvalidRequest is the only error."""
    limiter = ChatRateLimiter()
    for use in (
        lambda: limiter.limit(tokens=1, max_wait=huge).__enter__(),
        lambda: limiter.limit(tokens=huge),
        lambda: limiter.limit(tokens=1, units={"images": huge}),
        lambda: limiter.limit(tokens=1, units=huge),
        lambda: limiter.limit(tokens=1, model=huge),
        lambda: limiter.wait_for_capacity_sync(huge),
        lambda: limiter.is_limited(max_wait=huge),
        lambda: limiter.observe({"tokens": huge}),
        lambda: limiter.observe(huge),
        lambda: limiter.penalize(huge),
        lambda: limiter.penalize(0),
    ):
        with suppress(InvalidRequest):
            use()


@pytest.mark.parametrize("kind", [ChatRateLimiter, CompletionRateLimiter, EmbeddingRateLimiter])
def test_a_limit_is_fixed(kind: Any) -> None:
    """To set it anew raises, since that would change no bucket."""
    with pytest.raises(AttributeError):
        kind().request_limit = 1


def test_real_numbers_of_other_types_are_numbers(clock: FakeClock) -> None:
    """Such as NumPy's, as limits, seconds, and what remains."""
    number: Any = Fraction(5, 2)
    limiter = ChatRateLimiter(number, number, number)
    limiter.penalize(number)
    limiter.observe({"tokens": number})
    with limiter.limit(tokens=0, units={"requests": 0}, max_wait=number) as reservation:
        assert (reservation.max_wait, clock.slept) == (2.5, [2.5])


def test_a_bool_is_no_number_of_seconds_or_tokens() -> None:
    """It is mistaken for something else."""
    for use in (ChatRateLimiter().penalize, lambda b: ChatRateLimiter().observe({"tokens": b})):
        with pytest.raises(InvalidRequest, match="not True"):
            use(True)


@pytest.mark.parametrize(
    ("params", "output"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 50, "n": 2}, 100),
        ({"max_tokens": None}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": -1}, None),
        ({"max_output_tokens": 50.0}, 50),
        ({}, None),
        ({"n": 3}, None),
    ],
)
def test_a_call_without_a_maximum_tells_no_output(
    params: dict[str, Any], output: int | None
) -> None:
    """What it writes is for a server to say; its tokens have 15 for each choice."""
    costs = ChatRateLimiter().limit(**CHAT, **params).costs
    assert costs.get("output_tokens") == output
    assert costs["tokens"] - costs["input_tokens"] == (output or 15 * params.get("n", 1))
    assert costs["tokens"] == count_tokens(**CHAT | params)


def test_an_embedding_writes_nothing_and_says_so() -> None:
    """It has no maximum since it needs none."""
    costs = EmbeddingRateLimiter().limit(model="text-embedding-3-small", input=["Hi"]).costs
    assert (costs["input_tokens"], costs["output_tokens"], costs["tokens"]) == (1, 0, 1)


def test_with_waits_until_the_call_may_start(clock: FakeClock) -> None:
    """Each entry sleeps once, for as long as the arithmetic says."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    for _ in range(3):
        with limiter.limit(**CHAT) as reservation:
            assert reservation.costs["tokens"] == count_tokens(**CHAT)
    assert clock.slept == [1, pytest.approx(1, abs=1e-5)]
    assert reservation.wait == pytest.approx(1, abs=1e-5)
    assert reservation.limited_by == "requests"


def test_costs_by_unit() -> None:
    """A counted call knows its input and its output, a known cost does not; more can be added."""
    limiter = ChatRateLimiter()
    chat = {**CHAT, "max_tokens": 100, "n": 2}
    tokens = count_tokens(**chat)
    counted = {"requests": 1, "tokens": tokens, "input_tokens": tokens - 200, "output_tokens": 200}
    known = {"requests": 1, "tokens": 5}
    assert limiter.limit(**chat).costs == counted
    assert limiter.limit(**chat, units={"images": 2}).costs == {**counted, "images": 2}
    assert limiter.limit(**chat, units={"output_tokens": 9}).costs == {
        **counted,
        "output_tokens": 9,
    }
    assert limiter.limit(tokens=5).costs == known
    assert limiter.limit(tokens=5, units=None).costs == known
    assert limiter.limit(tokens=5, units={"requests": 3, "images": 2.0}).costs == {
        "requests": 3,
        "tokens": 5,
        "images": 2,
    }


def test_a_known_cost_with_its_input_has_the_rest_as_output() -> None:
    """So a server does not take it for a call without a maximum."""
    costs = ChatRateLimiter().limit(tokens=512, units={"input_tokens": 400}).costs
    assert (costs["input_tokens"], costs["output_tokens"], costs["tokens"]) == (400, 112, 512)
    costs = ChatRateLimiter().limit(tokens=5, units={"input_tokens": 400}).costs
    assert costs["output_tokens"] == 0


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (7, r"^units: must be such as \{'images': 2\}, not 7"),
        ({"tokens": 1}, "^units: tokens has a parameter of its own"),
        ({"images": -1}, r"^units\.images: must be a whole number, 0 or more, not -1"),
        ({"images": "many"}, r"^units\.images: must be a whole number"),
        ({"images": 2**63}, r"^units\.images: must be a whole number"),
        ({2: 1}, "^units: a unit is a name such as images, not 2"),
    ],
)
def test_costs_that_are_none_are_refused_at_once(units: Any, message: str) -> None:
    """The message names the unit and the value."""
    with pytest.raises(InvalidRequest, match=message):
        ChatRateLimiter().limit(model="m", tokens=5, units=units)


ODD = [[], ["x"], {}, {"x": 1}, set(), b"x", 0, -1, True, 1.5, float("nan"), float("inf"), 10**400]
ODD += ["", "\ud800", object(), object, iter(["x"]), lambda: None, NotImplemented]
PARAMETERS = ["model", "messages", "prompt", "input", "system", "tools", "functions", "text"]
PARAMETERS += ["max_tokens", "max_completion_tokens", "n", "best_of", "suffix", "instructions"]
PARAMETERS += ["response_format", "tool_choice", "tokens", "units", "max_wait"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_any_value_is_counted_or_refused(name: str) -> None:
    """Whatever a parameter is given, it has a cost, or InvalidRequest says what is wrong."""
    limiter = ChatRateLimiter()
    for value in ODD:
        for call in (CHAT, {"model": "gpt-4", "input": "Hello!"}, {"prompt": "Hello!"}):
            with suppress(InvalidRequest):
                assert limiter.limit(**{**call, name: value}).costs["tokens"] >= 0


@pytest.mark.parametrize("model", [["x"], {}, 0, b"gpt-4", object()])
def test_a_model_that_is_no_text_is_named(model: Any) -> None:
    """At the call, of whatever kind it is, and not as a key that cannot be hashed."""
    limiter = ChatRateLimiter()
    for call in (
        lambda: limiter.limit(model=model, tokens=1),
        lambda: limiter.wait_for_capacity_sync(1, model),
        lambda: limiter.wait_for_capacity(1, model).send(None),
        lambda: limiter.penalize(1, model),
        lambda: limiter.observe({"tokens": 1}, model),
    ):
        with pytest.raises(InvalidRequest, match=r"^model: must be a text such as 'gpt-4o', not "):
            call()


def test_a_local_limiter_ignores_what_it_does_not_limit() -> None:
    """Only requests and tokens are limited here."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    with limiter.limit(model="m", tokens=5, units={"images": 10**9}) as reservation:
        assert reservation.wait == 0


async def test_async_with_waits_without_blocking_the_loop(clock: FakeClock) -> None:
    """Ten callers in one loop start one after the other, in the order they came."""
    limiter = ChatRateLimiter(request_limit=60 * 100, token_limit=6000, bucket_size_in_seconds=0.01)
    began, order, starts = clock.now, list[int](), list[float]()

    async def call(i: int) -> None:
        async with limiter.limit(model="gpt-4", tokens=0):
            order.append(i)
            starts.append((clock.now - began) / SECOND)

    await asyncio.gather(*map(call, range(10)))
    assert order == list(range(10))
    assert starts == pytest.approx([i * 0.01 for i in range(10)], abs=1e-5)
    assert clock.slept == pytest.approx([i * 0.01 for i in range(1, 10)])  # all at the same time


def test_one_object_can_be_entered_again(clock: FakeClock) -> None:
    """Every entry of the same reservation object is a reservation of its own."""
    place = ChatRateLimiter(request_limit=60, token_limit=6000).limit(**CHAT)
    assert repr(place).endswith("not entered>")
    with place:
        assert repr(place).endswith("waited 0 s>")
    with place:
        assert repr(place).endswith("waited 1 s>")
    assert clock.slept == [1]


@pytest.mark.parametrize("bad", [-1, "5", float("nan"), True, [1]])
def test_a_longest_wait_that_is_none_is_refused_at_once(bad: Any) -> None:
    """By each call, and by the decorator."""
    limiter = ChatRateLimiter()
    for call in (lambda: limiter.limit(**CHAT, max_wait=bad), lambda: limiter.is_limited(bad)):
        with pytest.raises(InvalidRequest, match=r"^max_wait: must be seconds, 0 or more, not "):
            call()


async def test_a_longer_wait_than_accepted_is_refused(clock: FakeClock) -> None:
    """With 0 a call starts now or not at all; a refusal charges nothing and keeps no place."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    with limiter.limit(**CHAT, max_wait=0) as reservation:
        assert (reservation.wait, reservation.max_wait) == (0, 0)
    for max_wait in (0, 0.9):
        with pytest.raises(WaitTooLong) as caught, limiter.limit(**CHAT, max_wait=max_wait):
            pytest.fail("it had to wait")
        assert caught.value.retry_after == pytest.approx(1)
        with pytest.raises(WaitTooLong):
            async with limiter.limit(**CHAT, max_wait=max_wait):
                pytest.fail("it had to wait")
    async with limiter.limit(**CHAT, max_wait=1.1):
        assert clock.slept == [1]
    with limiter.limit(**CHAT, max_wait=None), suppress(WaitTooLong):
        limiter.limit(**CHAT, max_wait=float("inf")).__enter__()
    assert len(clock.slept) == 3


def test_a_function_may_say_how_long_its_calls_wait(clock: FakeClock) -> None:
    """All of them by the decorator, one by its own argument."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)

    @limiter.is_limited(max_wait=0)
    def call(**params: Any) -> Any:
        return params["model"]

    assert call(**CHAT) == "gpt-4"
    with pytest.raises(WaitTooLong):
        call(**CHAT)
    assert call(**CHAT, max_wait=5) == "gpt-4"
    assert clock.slept == [1]

    @limiter.is_limited(max_wait=0)
    def call_by_name(model: str, tokens: int, max_wait: float | None = None) -> None:
        pytest.fail("it had to wait")

    with pytest.raises(WaitTooLong):
        call_by_name("gpt-4", 1)


async def test_one_object_is_entered_once_at_a_time() -> None:
    """By tasks, threads, or further out: each call needs its own; a refused entry costs nothing."""
    limiter = Slots()
    place = limiter.limit(model="gpt-4", tokens=1)
    for _ in range(2):
        async with place:
            for enter in (place.__enter__, partial(asyncio.run, place.__aenter__())):
                with pytest.raises(RuntimeError, match="each call needs its own"):
                    await asyncio.to_thread(enter)
            with pytest.raises(RuntimeError, match="entered already"):
                await place.__aenter__()
            assert limiter.taken == 1
        place.__exit__(None, None, None)
        assert limiter.taken == 0


def test_of_many_threads_that_enter_one_object_one_does() -> None:
    """However close together they come; its slot is free when that one has left."""
    limiter = Slots()
    place = limiter.limit(model="gpt-4", tokens=1)
    barrier, entered, refused = threading.Barrier(8), list[int](), list[int]()

    def enter(number: int) -> None:
        for _ in range(50):
            barrier.wait(10)
            try:
                place.__enter__()
                entered.append(number)
            except RuntimeError:
                refused.append(number)
            barrier.wait(10)
            if number == 0:
                assert limiter.taken == 1
                place.__exit__(None, None, None)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(8)))
    assert (len(entered), len(refused)) == (50, 350)


async def test_an_entry_that_failed_leaves_the_object_free(clock: FakeClock) -> None:
    """Refused, cancelled or collected while it waited: the next entry is the first."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    place = limiter.limit(**CHAT, max_wait=0)
    with place:
        pass
    for _ in range(2):
        with pytest.raises(WaitTooLong):
            place.__enter__()
        with pytest.raises(WaitTooLong):
            await place.__aenter__()
    waiting = limiter.limit(**CHAT)
    for end in (asyncio.CancelledError, GeneratorExit):
        entry = waiting.__aenter__()
        entry.send(None)
        with pytest.raises(end):
            entry.throw(end())
    async with waiting:
        pass


async def test_wait_for_capacity(clock: FakeClock) -> None:
    """Both forms reserve one request of so many tokens."""
    limiter = ChatRateLimiter(request_limit=6000, token_limit=6000)
    limiter.wait_for_capacity_sync(100)
    limiter.wait_for_capacity_sync(100)
    await limiter.wait_for_capacity(50)
    assert clock.slept == [1, pytest.approx(0.5, abs=1e-5)]


def test_a_known_cost_is_not_counted(clock: FakeClock) -> None:
    """tokens=n is taken as it is, whatever the other parameters are."""
    reservation = ChatRateLimiter().limit(model="gpt-4o", tokens=512, messages=object())
    assert reservation.costs["tokens"] == 512
    assert reservation.model == "gpt-4o"


@pytest.mark.parametrize(
    ("name", "advice"),
    [("key", "RemoteLimiter(key=…)"), ("label", "spelt labels="), ("unit", "spelt units=")],
)
def test_what_would_be_ignored_is_refused(name: str, advice: str) -> None:
    """The error says what to write instead; a function that is limited may have such parameters."""
    limiter = ChatRateLimiter()
    for params in (CHAT, {"tokens": 1}):
        with pytest.raises(InvalidRequest, match=f"^{name}: is no parameter of a call; ") as caught:
            limiter.limit(**params, **{name: "x"})
        assert advice in str(caught.value)
    assert limiter.is_limited()(lambda **params: params)(**CHAT, **{name: "x"})[name] == "x"


def test_the_decorator_without_parentheses_says_so() -> None:
    """Instead of complaining about a wait that nobody gave."""
    with pytest.raises(InvalidRequest, match=r"write @limiter.is_limited\(\)"):
        ChatRateLimiter().is_limited(len)  # type: ignore[arg-type]  # that is the mistake


@pytest.mark.parametrize("bad", [-1, 1.5, "9", True, 2**63, float("nan")])
def test_tokens_that_are_no_count_are_refused(bad: Any) -> None:
    """The error names the parameter and the value."""
    with pytest.raises(InvalidRequest, match=r"^tokens: must be a whole number") as caught:
        ChatRateLimiter().limit(model="gpt-4o", tokens=bad)
    assert repr(bad) in str(caught.value)


def test_a_call_that_can_never_fit_is_refused_at_once() -> None:
    """A call larger than the minute's amount raises instead of hanging; one larger than the
    burst is served."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    with limiter.limit(model="gpt-4o", tokens=6000) as reservation:
        assert reservation.wait == 0
    with pytest.raises(CostExceedsLimit) as caught:
        limiter.limit(model="gpt-4o", tokens=6001).__enter__()
    assert (caught.value.unit, caught.value.cost, caught.value.amount) == ("tokens", 6001, 6000)


def test_limits_below_sixty_a_minute_work(clock: FakeClock) -> None:
    """A limit of less than one call a second spaces the calls out."""
    limiter = ChatRateLimiter(request_limit=3, token_limit=6000)
    for _ in range(2):
        with limiter.limit(model="gpt-4o", tokens=1):
            pass
    assert clock.slept == [20]


async def test_a_wait_that_is_collected_gives_back_and_blocks_nobody() -> None:
    """The garbage collector may end it in the middle of another decision of the same thread."""
    limiter = ChatRateLimiter(request_limit=6000, token_limit=6000)
    await limiter.wait_for_capacity(6000)
    store = limiter._store
    assert isinstance(store, MemoryStore)
    waiting = limiter.wait_for_capacity(6000)
    waiting.send(None)
    with store._lock:
        waiting.close()
    for thread in threading.enumerate():
        if thread.name == "openlimit-background":
            thread.join(5)
    decision = limiter.acquire(a_call("", {"requests": 1, "tokens": 1}))
    assert decision.wait < 60 * SECOND


async def test_a_cancelled_wait_gives_the_reservation_back(clock: FakeClock) -> None:
    """The next caller waits as if the cancelled one had never asked."""
    limiter = ChatRateLimiter(request_limit=6000, token_limit=6000)
    await limiter.wait_for_capacity(6000)
    waiting = asyncio.create_task(limiter.wait_for_capacity(6000))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await limiter.wait_for_capacity(100)
    assert clock.slept == [60, 60]


def test_an_interrupted_wait_gives_the_reservation_back(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in a sleeping thread takes nothing from the others."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    limiter.wait_for_capacity_sync(1)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clock, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            limiter.wait_for_capacity_sync(1)
    limiter.wait_for_capacity_sync(1)
    assert clock.slept == [1]


def test_what_gave_up_waiting_is_given_back_once(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its caller says of it afterwards, others keep their charge."""
    limiter = ChatRateLimiter(request_limit=6000, token_limit=6000)
    limiter.wait_for_capacity_sync(100)
    given_up = limiter.limit(tokens=100)

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(clock, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt), given_up:
            pass
    given_up.cancel()
    given_up.settle({"tokens": 1})
    assert (given_up.wait, given_up.limited_by) == (1, "tokens")
    limiter.wait_for_capacity_sync(100)
    assert clock.slept == [1]


def test_an_error_in_the_block_keeps_the_charge(clock: FakeClock) -> None:
    """Providers count failed calls as well."""
    limiter = ChatRateLimiter(request_limit=60, token_limit=6000)
    with pytest.raises(ZeroDivisionError), limiter.limit(**CHAT):
        raise ZeroDivisionError
    limiter.wait_for_capacity_sync(1)
    assert clock.slept == [1]


def test_threads_and_loops_share_one_limiter() -> None:
    """Starts from threads and from several event loops conform together."""
    limiter = ChatRateLimiter(request_limit=60 * 200, token_limit=10**6, bucket_size_in_seconds=0.1)
    starts: list[float] = []

    def from_thread() -> None:
        for _ in range(10):
            with limiter.limit(model="gpt-4o", tokens=1):
                starts.append(time.monotonic())

    async def from_loop() -> None:
        for _ in range(10):
            async with limiter.limit(model="gpt-4o", tokens=1):
                starts.append(time.monotonic())

    threads = [threading.Thread(target=from_thread) for _ in range(4)]
    threads += [threading.Thread(target=asyncio.run, args=[from_loop()]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 80 calls at 200 a second, 20 of them at once.
    assert len(starts) == 80
    assert max(starts) - min(starts) >= 60 / 200 - 0.01


def test_more_may_remain_than_a_double_holds() -> None:
    """An observation of such a whole number changes nothing, like any that is large enough."""
    limiter = ChatRateLimiter()
    limiter.observe({"tokens": 10**400})
    with limiter.limit(model="gpt-4", tokens=1, max_wait=0) as reservation:
        assert reservation.wait == 0
