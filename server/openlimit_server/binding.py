"""Why a server cannot listen on an address, as its operator reads it: gRPC says only that."""

import errno
import os
import socket
import stat
from pathlib import Path

from openlimit_server.config.faults import ConfigurationError

_LONGEST_PATH = 107  # bytes of a socket's path, on Linux
_ANSWERS_WITHIN = 1.0  # seconds
_REASONS = {
    errno.EADDRINUSE: "the port is in use; stop what listens there, or take another port",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 stands for all that it has",
    errno.EAFNOSUPPORT: "this machine has no IPv6; write 0.0.0.0 for all its addresses",
    errno.EACCES: "ports this low need a privilege; take one above 1023",
}


def require_free(listen: str) -> None:
    """Raise ConfigurationError unless a server could listen on this address now.

    Looks names up, and binds and frees the port: for use before anything is served. A socket in the
    file system that nobody serves any more is free, since a server replaces it.
    """
    if listen.startswith("unix:"):
        reason = _why_not_path(Path(listen.removeprefix("unix:").removeprefix("//")))
    else:
        reason = _why_not_port(listen)
    if reason:
        raise cannot_listen(listen, reason)


def cannot_listen(listen: str, reason: str | OSError) -> ConfigurationError:
    """The error for an address that cannot be had."""
    if isinstance(reason, OSError):
        reason = _words(reason)
    return ConfigurationError(f"cannot listen on {listen}: {reason}")


def _words(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return (
            f"the host is not known ({error.strerror}); write an address of this machine, such as "
            "127.0.0.1, or 0.0.0.0 for all of them"
        )
    return _REASONS.get(error.errno or 0, error.strerror or str(error))


def _why_not_port(listen: str) -> str | None:
    host, _, port = listen.rpartition(":")
    try:
        places = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as unknown:
        return _words(unknown)
    errors = [error for family, _, _, _, place in places if (error := _bind(family, place))]
    # A host may have addresses that this machine has not; but none may be another server's.
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(places):
        return _words((taken or errors)[0])
    return None


def _bind(family: int, place: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            # Connections that ended a moment ago are no server.
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(place)
    except OSError as error:
        return error
    return None


def _why_not_path(path: Path) -> str | None:
    folder = path.parent
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"the path of a socket has at most {_LONGEST_PATH} bytes; take a shorter one"
    if not folder.exists():
        return f"there is no folder {folder}; create it first"
    if not folder.is_dir():
        return f"{folder} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write to the folder {folder}"
    if not path.exists():
        return None
    if not stat.S_ISSOCK(path.stat().st_mode):
        return "a file that is no socket is in its place; remove it, or take another path"
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ANSWERS_WITHIN)
        if asking.connect_ex(str(path)) == errno.ECONNREFUSED:
            return None
    return "another server serves this socket; stop it, or take another path"
