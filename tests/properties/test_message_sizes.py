"""Large messages are read in pieces that say the same, or not at all, whatever is in them."""

from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from openlimit.errors import InvalidRequest
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit_server.rpc.sizes import PIECE, pieces, require_readable

_RUN = st.builds(
    lambda count, size: messages.AcquireRun(
        model="m" * size, ids=range(count), units=["tokens"], costs=[3000] * count
    ),
    st.integers(0, 300),
    st.integers(0, 5000),
)
_OPERATION = st.builds(
    lambda number, size: messages.Operation(
        id=number, acquire=messages.AcquireRequest(model="m" * size)
    ),
    st.integers(0, 1 << 63),
    st.integers(0, 8000),
)


@given(st.lists(_OPERATION, max_size=60), st.lists(_RUN, max_size=60), st.integers(1, 30))
def test_pieces_are_a_message_together(operations: Any, runs: Any, times: int) -> None:
    """None is larger than it may be, and what they say is the whole, in its order."""
    given_up = range(1000)
    whole = messages.AcquireStreamRequest(operations=operations, runs=runs, given_up=given_up)
    data = whole.SerializeToString() * times
    parts = [*pieces(data)]
    assert b"".join(parts) == data
    assert max(map(len, parts)) <= PIECE
    merged = messages.AcquireStreamRequest()
    for part in parts:
        merged.MergeFromString(part)
    assert merged == messages.AcquireStreamRequest.FromString(data)


@given(st.binary(max_size=100), st.integers(1, 2000))
def test_bytes_that_are_no_message_are_found_out(data: bytes, times: int) -> None:
    """Nothing is lost of what is taken for one, and all else is an error of the two kinds."""
    repeated = data * times
    try:
        parts = [*pieces(repeated)]
    except (DecodeError, InvalidRequest):
        return
    assert b"".join(parts) == repeated


@pytest.mark.parametrize("kind", [messages.AcquireRequest, messages.CountTokensRequest])
def test_a_body_may_be_large(kind: Any) -> None:
    """Also beside other fields, and several times: the last one counts."""
    data = kind(model="gpt-4o", body=b"x" * 500_000).SerializeToString() * 2
    require_readable(kind, data)


def test_bodies_in_a_batch_may_be_large() -> None:
    """What is beside them is counted for itself."""
    some = [messages.AcquireRequest(model="m", body=b"x" * 20_000)] * 40
    small = [messages.AcquireRequest(model="m", labels={"team": "x" * 50})] * 960
    require_readable(*_batch(some + small))
    large = [messages.AcquireRequest(model="m" * 20_000)]
    with pytest.raises(InvalidRequest, match="16384 bytes"):
        require_readable(*_batch(some + large))
    with pytest.raises(InvalidRequest, match="262144 bytes"):
        require_readable(*_batch([messages.AcquireRequest()] * 50_000))


def _batch(acquisitions: list[messages.AcquireRequest]) -> tuple[Any, bytes]:
    kind = messages.AcquireBatchRequest
    return kind, kind(acquisitions=acquisitions).SerializeToString()


@pytest.mark.parametrize(
    ("kind", "field"),
    [(messages.AcquireRequest, b"\x4a\x00"), (messages.SettleRequest, b"\x1a\x00")],
)
def test_many_small_fields_are_too_large(kind: Any, field: bytes) -> None:
    """They take longer to read than as many bytes of one."""
    with pytest.raises(InvalidRequest, match="16384 bytes beside the bodies"):
        require_readable(kind, field * 10_000)


def test_a_run_that_is_too_large_is_refused() -> None:
    """With how large it may be; what comes before it is carried out."""
    small, large = messages.AcquireRun(ids=range(100)), messages.AcquireRun(ids=range(100_000))
    asked = messages.AcquireStreamRequest(runs=[small] * 600 + [large])
    found = pieces(asked.SerializeToString())
    assert messages.AcquireStreamRequest.FromString(next(found)).runs[0] == small
    with pytest.raises(InvalidRequest, match="65536 at most"):
        list(found)
