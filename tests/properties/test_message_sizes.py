"""Large messages are read in pieces that say the same, or not at all, whatever is in them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.errors import InvalidRequest
from openlimit.v1 import rate_limit_pb2 as messages
from openlimit_server.rpc.sizes import PIECE, pieces, reader

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
    except InvalidRequest:
        return
    assert b"".join(parts) == repeated


@pytest.mark.parametrize("kind", [messages.AcquireRequest, messages.CountTokensRequest])
def test_a_body_may_be_large(kind: Any) -> None:
    """Also several times: the last one counts."""
    asked = kind(model="gpt-4o", body=b"x" * 500_000)
    assert reader(kind)(asked.SerializeToString() * 2) == asked


def test_bodies_in_a_batch_may_be_large() -> None:
    """Each comes in a piece of its own; what is beside it may not be large."""
    acquisition, batch = messages.AcquireRequest, messages.AcquireBatchRequest
    some = [acquisition(model="m", body=b"x" * 200_000), acquisition(model="n")] * 3
    data = batch(acquisitions=some).SerializeToString()
    parts = [batch.FromString(part) for part in pieces(data, of=acquisition)]
    assert [each for part in parts for each in part.acquisitions] == some
    large = batch(acquisitions=[acquisition(model="m" * 70_000, body=b"x")]).SerializeToString()
    with pytest.raises(InvalidRequest, match="65536 bytes are read beside"):
        list(pieces(large, of=acquisition))


def test_many_small_fields_are_too_large() -> None:
    """They take longer to read than as many bytes of one."""
    labels = messages.AcquireRequest(labels={f"l{i}": "x" for i in range(300)})
    assert reader(messages.AcquireRequest)(labels.SerializeToString()) == labels
    with pytest.raises(InvalidRequest, match="16384 bytes are read beside the bodies"):
        reader(messages.AcquireRequest)(labels.SerializeToString() * 10)


def test_what_is_no_message_is_told_from_what_is_too_large() -> None:
    """Whatever its size is."""
    for data in b"\xff\xff", b"\xff" * 20_000:
        with pytest.raises(InvalidRequest, match=r"is no openlimit\.v1\.AcquireRequest"):
            reader(messages.AcquireRequest)(data)
    with pytest.raises(InvalidRequest, match="at most 16384 bytes are read"):
        reader(messages.CancelRequest)(b"\xff" * 20_000)


def test_a_run_that_is_too_large_is_refused() -> None:
    """With how large it may be; what comes before it is carried out."""
    small, large = messages.AcquireRun(ids=range(100)), messages.AcquireRun(ids=range(100_000))
    asked = messages.AcquireStreamRequest(runs=[small] * 600 + [large])
    found = pieces(asked.SerializeToString())
    assert messages.AcquireStreamRequest.FromString(next(found)).runs[0] == small
    with pytest.raises(InvalidRequest, match="65536 bytes are read"):
        list(found)
