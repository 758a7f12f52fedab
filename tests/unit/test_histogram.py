"""A histogram tells the same values in Prometheus's two ways."""

from math import ceil, log2

from hypothesis import given
from hypothesis import strategies as st

from openlimit_server.engine.counts import WAITS
from openlimit_server.engine.histogram import LAST, SCHEMA, ZERO, Histogram, classic, native

ENDS = {index: 2 ** (index / 2**SCHEMA) for index in range(ZERO, LAST + 1)}
values_ = st.one_of(st.sampled_from([*WAITS, *ENDS.values()]), st.floats(0, 1e9))


@given(st.lists(values_, max_size=200), st.integers(0, 9))
def test_many_values_are_taken_as_each_is(values: list[float], zeros: int) -> None:
    """Also those that are a bound: these belong below it."""
    many, each = Histogram(WAITS), Histogram(WAITS)
    many.add(values)
    many.add_zeros(zeros)
    for value in [*values, *[0] * zeros]:
        each.add_one(value)
    assert abs(many.sum - each.sum) <= 1e-9 * many.sum
    found = classic(WAITS, many.counts)
    assert found == classic(WAITS, each.counts)
    assert native(WAITS, many.counts) == native(WAITS, each.counts)
    for i, bound in enumerate(WAITS):
        assert sum(found[: i + 1]) == sum(value <= bound for value in values) + zeros
    assert sum(found) == len(values) + zeros


@given(values_)
def test_a_native_bucket_holds_its_value(value: float) -> None:
    """Within its 9 %, but for what is too short or too long to matter."""
    histogram = Histogram(WAITS)
    histogram.add_one(value)
    [(index, many)] = native(WAITS, histogram.counts).items()
    assert many == 1
    assert index == ZERO or value > ENDS[index - 1]
    assert index == LAST or value <= ENDS[index]


def test_native_buckets_end_where_prometheus_has_them_end() -> None:
    """By its formula, with powers of two at whole multiples."""
    assert (ENDS[0], ENDS[2**SCHEMA], ENDS[-(2**SCHEMA)]) == (1, 2, 0.5)
    for value in (0.00123, 0.4, 3.0, 1800.0):
        histogram = Histogram(WAITS)
        histogram.add_one(value)
        assert [*native(WAITS, histogram.counts)] == [ceil(log2(value) * 2**SCHEMA)]
