"""What a process writes to stderr about itself: lines for people, or JSON objects for programs."""

import json
import logging
from datetime import UTC, datetime
from typing import Literal

LogFormat = Literal["console", "json"]
"""How a line is written."""
_TEXT = "%(asctime)s %(levelname)s %(message)s"
_OF_EVERY_RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime"}


def configure(log_format: LogFormat, level: int = logging.INFO) -> None:
    """Write what is logged from now on in this format, also what libraries log."""
    formatter = _JsonFormatter() if log_format == "json" else logging.Formatter(_TEXT)
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


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
