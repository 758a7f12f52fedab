"""Calls of the script, as Redis is sent them."""

import json

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from openlimit.stores.protocol import REPEATABLE, Settlement
from openlimit.stores.redis.script import BucketCall, key_of
from tests.contracts.once import once
from tests.contracts.store import LIMITS

NAMES = st.text("{}:ab", max_size=8)


@given(NAMES, NAMES)
def test_what_is_remembered_lies_in_its_buckets_slot(bucket: str, prefix: str) -> None:
    """On a cluster, a call may only touch the keys of one slot, whatever buckets are called."""
    call = BucketCall(bucket, prefix, LIMITS, None)
    call.questions += [
        once("r")._replace(bucket=bucket),
        Settlement(bucket, LIMITS, "lot-9", (1, 1), (1, 2), 1),
        Settlement(bucket, LIMITS, "lot-8", (1, 1), (1, 2), 1),
        Settlement(bucket, LIMITS, "local", (1, 1), (1, 2)),
    ]
    count, *keys, question = call.arguments
    assert count == len(keys) == 3
    assert keys[0] == key_of(bucket, prefix)
    assert len({key_slot(key.encode()) for key in keys}) == 1
    asked = json.loads(question)
    assert (asked["questions"][0][-2:], asked["requests"]) == ([1, [0]], [[2, -REPEATABLE]])
    assert [each[2:4] for each in asked["questions"][1:]] == [[3, 9], [3, 8], [0, 0]]
    assert f"{asked['lots']}lot" == keys[2]


@given(st.text("ab{}", min_size=1, max_size=5))
def test_keys_begin_with_the_prefix(bucket: str) -> None:
    """So that an access list can name them."""
    call = BucketCall(bucket, "openlimit", LIMITS, None)
    call.questions.append(once("r")._replace(bucket=bucket))
    assert all(key.startswith("openlimit:") for key in call.arguments[1:3])
