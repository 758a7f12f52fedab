"""The usage is found in a body that passes by, however it is cut, and only once it is final."""

import gzip
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.integrations.response_usage import reader_of

CHAT = (
    b'data: {"choices": [{"delta": {"content": "\\"usage\\": 1"}}], "usage": null}\r\n\r\n'
    b": a comment\n\n"
    b'data:{"choices": [], "usage": {"prompt_tokens": 11, "total_tokens": 16}}\n\n'
    b"data: [DONE]\n\n"
)
RESPONSES = (
    b'event: response.created\ndata: {"type": "response.created", "response": {"usage": null}}\n\n'
    b'data: {"type": "response.output_text.delta", "delta": "usage"}\n\n'
    b'data: {"type": "response.completed", "response": {"usage": {"input_tokens": 11}}}\n\n'
)
MESSAGES = (
    b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 4, '
    b'"cache_creation_input_tokens": 7, "output_tokens": 1}}}\n\n'
    b'data: {"type": "content_block_delta", "delta": {"text": "\\"message_stop\\""}}\n\n'
    b'data: {"type": "message_delta", "usage": {"input_tokens": null, "output_tokens": 5}}\n\n'
    b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
)
MESSAGE_USAGE = {"input_tokens": 4, "cache_creation_input_tokens": 7, "output_tokens": 5}
STREAMS = [
    (CHAT, {"prompt_tokens": 11, "total_tokens": 16}),
    (RESPONSES, {"input_tokens": 11}),
    (MESSAGES, MESSAGE_USAGE),
]


def read(
    body: bytes, *cuts: int, kind: str = "text/event-stream", ended: bool = True
) -> Mapping[str, Any] | None:
    reader = reader_of(kind)
    assert reader is not None
    for start, end in zip((0, *cuts), (*cuts, len(body)), strict=True):
        reader.feed(body[start:end])
    return reader.usage(ended=ended)


@pytest.mark.parametrize(("body", "usage"), STREAMS)
@given(data=st.data())
def test_a_stream_is_understood_however_it_is_cut(
    body: bytes, usage: dict[str, int], data: st.DataObject
) -> None:
    """Packets know nothing of events, nor of lines."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))
    assert read(body, *cuts) == usage


@pytest.mark.parametrize(("body", "usage"), STREAMS)
def test_a_stream_that_is_left_after_its_last_event_has_told_all(
    body: bytes, usage: dict[str, int]
) -> None:
    """SDKs stop reading at the last event, not at the end of the body."""
    assert read(body, ended=False) == usage


@pytest.mark.parametrize(("body", "_"), STREAMS)
def test_a_stream_that_is_left_earlier_has_told_nothing_final(body: bytes, _: Any) -> None:
    """What has been written so far is not known."""
    last_event = body[:-2].rindex(b"data:")
    assert read(body[:last_event], ended=False) is None


def test_a_stream_that_breaks_off_after_its_input_has_told_nothing_final() -> None:
    """Anthropic opens with one token of output, which is not what the call will have used."""
    assert read(MESSAGES[: MESSAGES.index(b"data: ", 5)]) is None


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (b'{"usage": {"total_tokens": 16}, "choices": []}', {"total_tokens": 16}),
        (b'{"usage": null}', {}),
        (b'{"usage": 16}', {}),
        (b'{"status": "queued"}', {}),
        (b'[{"usage": {"total_tokens": 16}}]', {}),
        (b'{"usage": {"total_tokens": 16}', {}),
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"[" * 100_000, {}),
    ],
)
def test_of_a_document_only_a_usage_at_its_top_counts(body: bytes, usage: dict[str, int]) -> None:
    """Whatever else it is, broken or not, tells nothing."""
    assert read(body, len(body) // 2, kind="application/json; charset=utf-8") == usage


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"7", b'{"usage": 7}', b'{"message": 7}', b'{"response": ["usage"]}'],
)
def test_odd_events_are_passed_over(line: bytes) -> None:
    """The others still tell what they tell."""
    assert read(b"data: " + line + b', "usage"\n\ndata: ' + line + b"\n\n" + CHAT) == STREAMS[0][1]


def test_a_document_that_is_left_before_its_end_has_told_nothing() -> None:
    """Half a document is none."""
    assert read(b'{"usage": {"total_tokens": 16}}', kind="application/json", ended=False) is None


def test_a_whole_document_is_decoded_and_coded_events_are_not_read() -> None:
    """What compresses a document can be undone at its end, a stream has none while it lasts."""
    document = json.dumps({"usage": {"total_tokens": 16}}).encode()
    reader = reader_of("application/json", gzip.decompress)
    assert reader is not None
    reader.feed(gzip.compress(document))
    assert reader.usage(ended=True) == {"total_tokens": 16}
    assert reader_of("text/event-stream", gzip.decompress) is None
    assert reader_of("audio/mpeg") is None
