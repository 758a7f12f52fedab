"""Where it is recorded who has changed what: the logger ``openlimit.audit``, in lines of JSON."""

import logging
from pathlib import Path

from openlimit_server.config.faults import ConfigurationError


def record_in(path: Path | None) -> None:
    """Append the lines to a file as well, if there is one. Several processes may share it. Raises
    ConfigurationError."""
    if path is None:
        return
    try:
        handler = logging.FileHandler(path, encoding="utf-8")  # which appends
    except OSError as error:
        raise ConfigurationError(f"--audit-log: {path}: {error.strerror}") from error
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("openlimit.audit").addHandler(handler)
