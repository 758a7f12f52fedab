"""Calls of the script, as Redis is sent them."""

import json
import struct

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from openlimit.stores.protocol import REPEATABLE, Operation, Settle
from openlimit.stores.redis.keys import key_of
from openlimit.stores.redis.script import calls_of
from tests.contracts.once import once
from tests.contracts.store import LIMITS, acquire

NAMES = st.text("{}:ab", max_size=8)


def settle(bucket: str, lot: str, number: int, starts: list[float] | None) -> Settle:
    return Settle(bucket, LIMITS, lot, [number], starts, [(1, 1)], [(1, 2)])


@given(NAMES, NAMES)
def test_what_is_remembered_lies_in_its_buckets_hash_slot(bucket: str, prefix: str) -> None:
    """On a cluster, a call may touch keys of one hash slot only, whatever buckets are called."""
    operations: list[Operation] = [
        once("r", lot="one")._replace(bucket=bucket),
        settle(bucket, "lot", 9, [1]),
        settle(bucket, "lot", 8, [1]),
        settle(bucket, "local", 7, None),
    ]
    [call] = calls_of(operations, prefix, None)
    count, *keys, content, columns = call.encode()
    assert count == len(keys) == 3
    assert keys[0] == key_of(bucket, prefix)
    assert len({key_slot(key.encode()) for key in keys}) == 1
    asked = json.loads(content)
    assert asked["operations"] == [
        ["repeat", "one", 0, 1, -1, 1, False],
        ["settle", 3, "lot", 1],
        ["settle", 3, "lot", 1],
        ["settle", False, "local", 1],
    ]
    assert asked["requests"] == [[2, -REPEATABLE]]
    assert f"{asked['lots']}lot" == keys[2]
    numbers = struct.unpack("<14d", columns)
    assert numbers == (1, 100, 0, *(9, 1, 0, 1), *(8, 1, 0, 1), *(7, 0, 1))


@given(st.text("ab{}", min_size=1, max_size=5))
def test_keys_begin_with_the_prefix(bucket: str) -> None:
    """So that an access list can name them."""
    [call] = calls_of([once("r")._replace(bucket=bucket)], "openlimit", None)
    assert all(key.startswith("openlimit:") for key in call.encode()[1:3])


def test_operations_of_a_bucket_stay_in_order_when_its_limits_change() -> None:
    """Those with the limits of before are not moved ahead of those with others."""
    first, other = acquire("b"), acquire("b")._replace(limits=LIMITS[:1], costs=[(1,)])
    calls = calls_of([first, first, other, first], "", None)
    assert [call.operations for call in calls] == [[first, first], [other], [first]]


def test_one_call_carries_out_so_much_and_no_more() -> None:
    """Redis does nothing else meanwhile; what is too large for one call alone has one."""
    starts = [1.0] * 400
    column = Settle("b", LIMITS, "lot", range(400), starts, [(1, 1)] * 400, [(1, 2)] * 400)
    large = column._replace(numbers=range(2000), starts=[1.0] * 2000)
    calls = calls_of([column] * 5 + [large, column], "openlimit", None)
    assert [call.positions for call in calls] == [[0, 1], [2, 3], [4], [5], [6]]
