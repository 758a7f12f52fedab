"""Where it is recorded who has changed what: the logger ``openlimit.audit``, in lines of JSON."""

import logging
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path

from openlimit_server.config.faults import ConfigurationError

_log = logging.getLogger("openlimit")


def record_in(path: Path | None) -> None:
    """Append the lines to a file as well, if there is one. Several processes may share it. Raises
    ConfigurationError."""
    if path is None:
        return
    try:
        handler = _AuditFile(path, encoding="utf-8")  # which appends
    except OSError as error:
        raise ConfigurationError(
            f"--audit-log: {path} cannot be written: {error.strerror}; name a file in a folder of "
            "this user"
        ) from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("openlimit.audit").addHandler(handler)


class _AuditFile(WatchedFileHandler):
    """Opens the file anew once it was moved or removed, as programs do that rotate logs."""

    def handleError(self, record: logging.LogRecord) -> None:
        """The change holds all the same: it is made, and the server's log has the line."""
        error = sys.exc_info()[1]
        _log.error(
            "--audit-log: cannot write %s: %s; the line is in this log alone",
            *(self.baseFilename, error),
            extra={"event": "audit_failed", "path": self.baseFilename},
        )
