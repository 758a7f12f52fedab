"""The estimate of what calls write."""

from math import ceil, inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from openlimit.bucket.limit import Limit
from openlimit_server.engine.costs import Columns, TokenCosts
from openlimit_server.engine.learned_output import LearnedOutput

OUTPUTS = st.integers(0, 2**63 - 1) | st.integers(0, 3)


def learned(outputs: list[int], model: str = "m") -> LearnedOutput:
    """From these, one after the other."""
    learned = LearnedOutput()
    for output in outputs:
        learned.learn(model, output)
    return learned


@given(st.lists(OUTPUTS, min_size=1, max_size=80), st.integers(0, 20))
def test_it_is_the_percentile_of_the_latest(outputs: list[int], repeated: int) -> None:
    """The smallest value that at least 95 % of the latest 512 do not exceed, none before 59."""
    outputs = outputs * (1 + repeated)
    latest = outputs[-512:]
    estimate = learned(outputs).estimate("m")
    if len(outputs) < 59:
        assert estimate == inf
    else:
        assert estimate == sorted(latest)[ceil(len(latest) * 95 / 100) - 1]
        assert sum(output <= estimate for output in latest) >= 0.95 * len(latest)
        assert sum(output < estimate for output in latest) < 0.95 * len(latest)


def test_it_converges() -> None:
    """Of calls that go on as they were, 92 to 98 in a hundred write no more than the estimate."""
    random = Random(5)
    for spread in (0.1, 0.5, 1, 2):
        outputs = [round(random.lognormvariate(6, spread)) for _ in range(5000)]
        estimate = learned(outputs).estimate("m")
        later = [round(random.lognormvariate(6, spread)) for _ in range(5000)]
        assert 0.92 < sum(output <= estimate for output in later) / 5000 < 0.98


def test_it_follows_a_model_that_writes_more() -> None:
    """As soon as more than one in twenty of the latest calls wrote more, and not before."""
    model = learned([100] * 10_000 + [4000] * 25)
    assert model.estimate("m") == 100
    model.learn("m", 4000)
    assert model.estimate("m") == 4000


def test_it_follows_a_model_that_writes_less() -> None:
    """What was written longest ago is forgotten."""
    model = learned([4000] * 10_000 + [100] * 486)
    assert model.estimate("m") == 4000
    model.learn("m", 100)
    assert model.estimate("m") == 100


def test_models_are_told_apart_and_their_number_is_bounded() -> None:
    """Each has an estimate of its own; the one that nothing was learned of for longest goes."""
    model = learned([5] * 100, "first")
    for i in range(999):
        model.learn(f"m-{i}", 7)
    assert (model.estimate("first"), model.estimate("m-0"), model.estimate("?")) == (5, inf, inf)
    model.learn("first", 5)
    model.learn("one more", 7)
    assert len(model._models) == 1000
    for _ in range(100):
        model.learn("m-0", 9)
    assert (model.estimate("first"), model.estimate("m-0")) == (5, 9)
    for i in range(1000):
        model.learn(f"n-{i}", 7)
    assert len(model._models) == 1000
    assert model.estimate("first") == inf


LIMITS = [
    Limit.per("input_tokens", 10**9, 60),
    Limit.per("output_tokens", 10**12, 86400),
    Limit.per("output_tokens", 10**9, 60),
]
COSTS = st.fixed_dictionaries(
    {"requests": st.just(1)},
    optional={"input_tokens": st.integers(0, 10**6), "output_tokens": st.integers(0, 10**6)},
)


def charge(rules: TokenCosts, costs: dict[str, int]) -> dict[str, int]:
    """What one call of that cost is charged."""
    columns: Columns = {unit: [cost] for unit, cost in costs.items()}
    rules.charge("m", columns)
    return {unit: cost for unit, [cost] in columns.items()}


@given(COSTS, st.integers(0, 10**6), st.none() | st.integers(0, 10**6))
def test_no_token_is_passed_by(costs: dict[str, int], further: int, expected: int | None) -> None:
    """Whatever a call leaves out, its input and its output are charged, and never more output
    than it may write."""
    given = sum(costs.values()) - 1
    costs["tokens"] = given + further
    model = None if expected is None else learned([expected] * 59)
    charged = charge(TokenCosts(LIMITS, model, 1000), costs)
    if not {"input_tokens", "output_tokens"} <= costs.keys():
        assert charged["input_tokens"] + charged["output_tokens"] >= charged["tokens"]
    assert charged["requests"] == 1
    if "input_tokens" in costs:
        assert charged["input_tokens"] == costs["input_tokens"]
    if "output_tokens" in costs:
        maximum = costs["output_tokens"]
        assert charged["output_tokens"] == min(maximum, maximum if expected is None else expected)
        assert charged["tokens"] == costs["tokens"] - maximum + charged["output_tokens"]
    elif "input_tokens" in costs:  # it gives no maximum
        assert charged["output_tokens"] == (1000 if expected is None else expected)
        assert charged["tokens"] == costs["input_tokens"] + charged["output_tokens"]
    else:
        assert charged["output_tokens"] == charged["tokens"] == costs["tokens"]


SMALL = [
    Limit.per("tokens", 700, 60),
    Limit.per("tokens", 10**6, 86400),
    Limit.per("output_tokens", 90, 60),
]


@given(st.integers(0, 1000), st.none() | st.integers(0, 2000), st.integers(1, 2000))
def test_no_call_is_refused_for_a_maximum_that_it_does_not_give(
    shown: int, expected: int | None, default: int
) -> None:
    """What it is taken to write is no more than the whole limit; its input alone can be."""
    model = None if expected is None else learned([expected] * 59)
    costs = {"requests": 1, "tokens": shown + 15, "input_tokens": shown}
    charged = charge(TokenCosts(SMALL, model, default), costs)
    output = default if expected is None else expected
    assert charged["tokens"] == (shown if shown > 700 else min(700, shown + output))
    assert charged["output_tokens"] == min(90, output)


def test_without_limits_of_its_parts_a_call_that_says_its_tokens_is_charged_as_it_says() -> None:
    """Nothing is added to what it costs."""
    costs = {"requests": 1, "tokens": 100}
    assert charge(TokenCosts([Limit.per("tokens", 700, 60)], None, 50), costs) == costs
