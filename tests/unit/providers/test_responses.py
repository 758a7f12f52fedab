"""The usage is found in a body that passes by, however it is cut, and only once it is final."""

import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlimit.providers.responses import BodyReader
from tests.support.aws_frames import framed, packed

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
GROQ = (
    b'data: {"choices": [], "x_groq": {"id": "req"}}\n\n'
    b'data: {"choices": [], "x_groq": {"usage": {"prompt_tokens": 11}}}\n\ndata: [DONE]\n\n'
)
MOONSHOT = b'data: {"choices": [{"usage": {"prompt_tokens": 11}}]}\n\ndata: [DONE]\n\n'
ON_SEVERAL_LINES = (
    b'\xef\xbb\xbfevent: x\rdata: {"usage":\rdata: {"prompt_tokens": 11}}\r\rdata: [DONE]\r\r'
)


BEDROCK = b"".join(
    packed(line[6:].decode()) for line in MESSAGES.splitlines() if line.startswith(b"data: ")
)
METRICS = {"inputTokenCount": 11, "outputTokenCount": 5, "invocationLatency": 900}
LLAMA = packed('{"generation": "Hi", "prompt_token_count": null}') + packed(
    json.dumps({"generation": "", "amazon-bedrock-invocationMetrics": METRICS})
)
CONVERSE = framed({"delta": {"text": "Hi"}}) + framed({"usage": {"inputTokens": 11}})
STREAMS = [
    (CHAT, {"prompt_tokens": 11, "total_tokens": 16}),
    (RESPONSES, {"input_tokens": 11}),
    (MESSAGES, MESSAGE_USAGE),
    (GROQ, {"prompt_tokens": 11}),
    (MOONSHOT, {"prompt_tokens": 11}),
    (ON_SEVERAL_LINES, {"prompt_tokens": 11}),
    (BEDROCK, MESSAGE_USAGE),
    (LLAMA, METRICS),
]


def read(body: bytes, *cuts: int, ended: bool = True) -> Mapping[str, Any] | None:
    reader = BodyReader()
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
    if body in (BEDROCK, LLAMA):  # each frame begins with its length
        last_event = body.rindex(b"\0\0\0", 0, body.rindex(b":event-type"))
        last_event = body.rindex(b"\0\0\0", 0, last_event)
    else:
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
        (b'{"usageMetadata": {"totalTokenCount": 16}}', {"totalTokenCount": 16}),
        (
            b'[{"usageMetadata": {"promptTokenCount": 3}},\n'
            b'{"usageMetadata": {"promptTokenCount": 3, "totalTokenCount": 16}}]',
            {"promptTokenCount": 3, "totalTokenCount": 16},
        ),
        (b'\xef\xbb\xbf\r\n {"usage": {"total_tokens": 16}}', {"total_tokens": 16}),
        (b'{"usage": {"total_tokens": 16}', {}),
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"[" * 100_000, {}),
    ],
)
def test_of_a_document_only_a_usage_at_its_top_counts(body: bytes, usage: dict[str, int]) -> None:
    """Whatever else it is, broken or not, tells nothing."""
    assert (read(body, len(body) // 2) or {}) == usage


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"7", b'{"usage": 7}', b'{"message": 7}', b'{"response": ["usage"]}'],
)
def test_odd_events_are_passed_over(line: bytes) -> None:
    """The others still tell what they tell."""
    assert read(b"data: " + line + b', "usage"\n\ndata: ' + line + b"\n\n" + CHAT) == STREAMS[0][1]


def test_a_document_that_is_left_before_its_end_has_told_nothing() -> None:
    """Half a document is none."""
    assert read(b'{"usage": {"total_tokens": 16}}', ended=False) is None


def test_converse_has_told_all_at_its_end() -> None:
    """No event of it is the last."""
    assert read(CONVERSE, 5, 40) == {"inputTokens": 11}
    assert read(CONVERSE, ended=False) is None


@pytest.mark.parametrize(
    "body",
    [b"ID3\x04" + b"\0" * 40, b"<html>usage", b"\0" * 40, b"\0\0\0\x10", b"x", b"data", b" \n"],
)
def test_other_bodies_are_passed_over(body: bytes) -> None:
    """Recordings, pages, frames that are none, and what ends before it is anything."""
    assert read(body) is None


@pytest.mark.parametrize("start", [317, 0])
def test_zeros_in_a_later_event_do_not_undo_an_earlier(start: int) -> None:
    """Imitators of Anthropic tell the input either first or last; the first output is none."""
    body = (
        b'data: {"type": "message_start", "message": {"usage": '
        b'{"input_tokens": %d, "output_tokens": 1}}}\n\n'
        b'data: {"type": "message_delta", "usage": {"input_tokens": %d, "output_tokens": 0}}\n\n'
        b'data: {"type": "message_stop"}\n\n'
    ) % (start, 317 - start)
    assert read(body) == {"input_tokens": 317, "output_tokens": 0}


def test_an_encoded_body_is_decoded_at_its_end_also_if_it_was_left() -> None:
    """What had come until then is read, whatever the decoder says of its end."""
    document = json.dumps({"usage": {"total_tokens": 16}}).encode()
    reader = BodyReader(lambda body: [gzip.decompress(body)])
    reader.feed(gzip.compress(document))
    assert reader.usage(ended=True) == {"total_tokens": 16}

    def left(_: bytes) -> Iterator[bytes]:
        yield CHAT
        raise EOFError

    reader = BodyReader(left)
    assert reader.usage(ended=False) == STREAMS[0][1]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (CHAT, ""),
        (b'{"error": null}', ""),
        (b'{"error": {"code": 429}}', '{"code": 429}'),
        (b'[{"error": {"code": 429}}]', '{"code": 429}'),
        (b'data: {"error": {"code": 429}}\n\n', '{"code": 429}'),
        (b'data: {"type": "error", "code": "x"}\n\n', '{"type": "error", "code": "x"}'),
        (
            b'data: {"type": "response.failed", "response": {"error": {"code": "x"}}}\n\n',
            '{"code": "x"}',
        ),
        (
            b'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n',
            '{"type": "overloaded_error"}',
        ),
    ],
)
def test_errors_are_found_in_documents_and_in_streams(body: bytes, error: str) -> None:
    """As JSON, wherever each API has them."""
    reader = BodyReader()
    reader.feed(body)
    assert reader.error() == error
