"""Builds the frames in which AWS streams events."""

import json
from base64 import b64encode
from zlib import crc32


def framed(event: object) -> bytes:
    """An event in a frame with Bedrock's headers."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + len(value).to_bytes(2) + value
        for name, value in {
            b":event-type": b"chunk",
            b":content-type": b"application/json",
            b":message-type": b"event",
        }.items()
    )
    payload = json.dumps(event).encode()
    prelude = (12 + len(headers) + len(payload) + 4).to_bytes(4) + len(headers).to_bytes(4)
    frame = prelude + crc32(prelude).to_bytes(4) + headers + payload
    return frame + crc32(frame).to_bytes(4)


def packed(event: str) -> bytes:
    """An event of the model's own API, in the form of InvokeModel."""
    return framed({"bytes": b64encode(event.encode()).decode()})
