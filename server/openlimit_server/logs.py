"""What a process writes to stderr about itself: lines for people, or JSON objects for programs."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["console", "json"]
"""How a line is written."""
_TEXT = "%(asctime)s %(levelname)s %(message)s"
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def configure(log_format: LogFormat, level: int = logging.INFO) -> None:
    """Write what is logged from now on in this format, also what libraries log."""
    formatter = _JsonFormatter() if log_format == "json" else _TextFormatter(_TEXT)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def quieten_grpc() -> None:
    """Let gRPC write no lines of its own, unless the environment says how many. They are in no
    format of ours, and anybody can cause them: each handshake that fails is one. To be called
    before gRPC is imported."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


class _TextFormatter(logging.Formatter):
    """A record begins at the beginning of a line, and nothing else does. So nothing that is logged,
    such as a label with a line break, can look like another record, or command a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        first, *others = super().format(record).split("\n")
        return "\n    ".join(map(_printable, [first, *others]))


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() or c == "\t" else ascii(c)[1:-1] for c in line)


class _JsonFormatter(logging.Formatter):
    """An object on a line, with the fields that ``extra`` adds. A line break in a message is
    escaped, so nothing that is logged can look like another line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        more = {name: v for name, v in vars(record).items() if name not in _OF_EVERY_RECORD}
        if record.exc_info:
            more["exception"] = self.formatException(record.exc_info)
        return json.dumps(line | more, default=str)
