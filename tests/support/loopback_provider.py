"""A provider on loopback with OpenAI's and Anthropic's interfaces. Tests set its answers.

It compresses its answers if the client accepts this, and streams event by event. Each answer has a
usage of 11 input and 5 output tokens, unless ``answers`` contains another answer.
"""

import gzip
import json
import threading
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Json = dict[str, Any]

CHAT_USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
EMBEDDING_USAGE = {"prompt_tokens": 11, "total_tokens": 11}
RESPONSE_USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 16,
}
MESSAGE_USAGE = {
    "input_tokens": 4,
    "cache_creation_input_tokens": 7,
    "cache_read_input_tokens": 100,
    "output_tokens": 5,
}
"""11 of these tokens count as input."""


class Answer(NamedTuple):
    """An answer that replaces the usual one."""

    status: int = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    body: Json | bytes | None = None
    """None: the usual body."""


class Provider:
    """The provider's state. Tests read and change it.

    ``requests`` are the bodies it got, ``answers`` its next answers, and ``headers`` the headers of
    all answers. It sends the last event of a stream only while ``finish`` is set. With ``hang_up``,
    it closes the connection without an answer.
    """

    def __init__(self) -> None:
        self.requests: list[Json] = []
        self.seen_headers: list[dict[str, str]] = []
        self.answers: deque[Answer] = deque()
        self.headers: dict[str, str] = {}
        self.finish = threading.Event()
        self.finish.set()
        self.hang_up = False
        self.url = ""


@contextmanager
def serving() -> Iterator[Provider]:
    """A provider on a free port, in its own threads; ``url`` is its root."""
    provider = Provider()

    class Handler(_Handler):
        told = provider

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    provider.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield provider
    finally:
        provider.finish.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    told: Provider

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the overridden method
        """Log nothing."""

    def do_GET(self) -> None:
        """Answer a request that is no call."""
        self._document(200, {}, {"object": "list", "data": []})

    def do_POST(self) -> None:
        """Answer a call."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.told.requests.append(body)
        self.told.seen_headers.append({k.lower(): v for k, v in self.headers.items()})
        if self.told.hang_up:
            self.close_connection = True
            return
        answer = self.told.answers.popleft() if self.told.answers else Answer()
        path = self.path.partition("?")[0]
        headers = self.told.headers | answer.headers
        if answer.body is not None or answer.status != 200:
            self._document(answer.status, headers, answer.body or _error(answer.status))
        elif body.get("stream"):
            self._events(headers, _EVENTS[path.rpartition("/")[2]](body))
        else:
            self._document(200, headers, _DOCUMENTS.get(path.rpartition("/")[2], dict)(body))

    def _document(self, status: int, headers: dict[str, str], body: Json | bytes) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        if "gzip" in self.headers.get("accept-encoding", ""):
            data = gzip.compress(data)
            headers["content-encoding"] = "gzip"
        self._head(status, headers | {"content-length": str(len(data))})
        self.wfile.write(data)

    def _events(self, headers: dict[str, str], events: Sequence[Json | str]) -> None:
        headers = {"content-type": "text/event-stream", **headers, "transfer-encoding": "chunked"}
        coder = None
        if "gzip" in self.headers.get("accept-encoding", ""):
            coder = zlib.compressobj(wbits=31)
            headers["content-encoding"] = "gzip"
        self._head(200, headers)
        for event in events:
            if event is events[-1]:
                self.told.finish.wait(30)
            data = _event(event)
            self._chunk(coder.compress(data) + coder.flush(zlib.Z_SYNC_FLUSH) if coder else data)
        if coder:
            self._chunk(coder.flush())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _event(event: Json | str) -> bytes:
    if isinstance(event, str):
        return f"data: {event}\n\n".encode()
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def _error(status: int) -> Json:
    error = {"message": "no", "type": "rate_limit_error", "param": None, "code": None}
    return {"type": "error", "error": error, "status": status}


def _chat(body: Json) -> Json:
    choice = _choice("message", 'I say "usage".', "stop")
    return _completion(body, "chat.completion", [choice]) | {"usage": CHAT_USAGE}


def _choice(kind: str, words: str, finish_reason: str | None) -> Json:
    said = {"role": "assistant", "content": words, "refusal": None}
    return {"index": 0, kind: said, "logprobs": None, "finish_reason": finish_reason}


def _completion(body: Json, kind: str, choices: list[Json]) -> Json:
    return {"id": "c-1", "object": kind, "created": 1, "model": body["model"], "choices": choices}


def _text(body: Json) -> Json:
    choice = {"index": 0, "text": "Hi", "logprobs": None, "finish_reason": "stop"}
    return _completion(body, "text_completion", [choice]) | {"usage": CHAT_USAGE}


def _embedding(body: Json) -> Json:
    data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
    return {"object": "list", "model": body["model"], "data": data, "usage": EMBEDDING_USAGE}


def _response(body: Json) -> Json:
    text = {"type": "output_text", "text": "Hi", "annotations": []}
    message = {"type": "message", "id": "m-1", "role": "assistant", "status": "completed"}
    return {
        "id": "r-1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "error": None,
        "model": body["model"],
        "output": [message | {"content": [text]}],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": RESPONSE_USAGE,
    }


def message(body: Json) -> Json:
    """An answer of Anthropic's API."""
    return {
        "id": "msg-1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": MESSAGE_USAGE,
    }


def _chat_events(body: Json) -> list[Json | str]:
    wants_usage = (body.get("stream_options") or {}).get("include_usage")
    usage = {"usage": None} if wants_usage else {}
    chunk = _completion(body, "chat.completion.chunk", [])
    words = {"usage": None, ' is "usage".': None, "": "stop"}
    chunks: list[Json | str] = [
        chunk | {"choices": [_choice("delta", word, finish_reason)]} | usage
        for word, finish_reason in words.items()
    ]
    last: list[Json | str] = [chunk | {"usage": CHAT_USAGE}] if wants_usage else []
    return [*chunks, *last, "[DONE]"]


def _response_events(body: Json) -> list[Json | str]:
    whole = _response(body)
    begun = whole | {"output": [], "usage": None}
    item = whole["output"][0] | {"status": "in_progress", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    at = {"item_id": "m-1", "output_index": 0, "content_index": 0}
    delta = {**at, "delta": "Hi", "logprobs": []}
    return [
        {"type": "response.created", "sequence_number": 0, "response": begun},
        {
            "type": "response.output_item.added",
            "sequence_number": 1,
            "output_index": 0,
            "item": item,
        },
        {"type": "response.content_part.added", "sequence_number": 2, **at, "part": part},
        {"type": "response.output_text.delta", "sequence_number": 3, **delta},
        {"type": "response.completed", "sequence_number": 4, "response": whole},
    ]


def message_events(body: Json) -> list[Json | str]:
    """A stream of Anthropic's API."""
    begun: Json = {
        "content": [],
        "stop_reason": None,
        "usage": MESSAGE_USAGE | {"output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": "Hi"}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        {"type": "message_start", "message": message(body) | begun},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


_DOCUMENTS = {
    "completions": lambda body: _text(body) if "prompt" in body else _chat(body),
    "embeddings": _embedding,
    "responses": _response,
    "messages": message,
}
_EVENTS = {
    "completions": _chat_events,
    "responses": _response_events,
    "messages": message_events,
}
