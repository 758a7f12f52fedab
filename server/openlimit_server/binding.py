"""Says why a server cannot listen on an address. gRPC says only that it cannot."""

import errno
import os
import socket
import stat
from pathlib import Path

from openlimit_server.config.faults import ConfigurationError

_LONGEST_PATH = 107  # bytes; Linux allows no longer path for a socket
_ANSWERS_WITHIN = 1.0  # seconds
_REASONS = {
    errno.EADDRINUSE: "the port is in use; stop what listens there, or change --listen or --http",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 means all its addresses",
    errno.EAFNOSUPPORT: "this machine has no IPv6; write 0.0.0.0 for all its addresses",
    errno.EACCES: "ports this low need a privilege; take one above 1023",
}


def require_free(listen: str) -> None:
    """Raise ConfigurationError unless a server could listen on this address now.

    Call it before anything is served: it looks names up, and binds and frees the port. It blocks. A
    socket in the file system without a server counts as free, because a new server replaces it.
    """
    if listen.startswith("unix:"):
        reason = _why_not_path(Path(listen.removeprefix("unix:").removeprefix("//")))
    else:
        reason = _why_not_port(listen)
    if reason:
        raise cannot_listen(listen, reason)


def bound(family: int, place: tuple[object, ...], *, shared: bool = False) -> socket.socket:
    """A socket that holds the port; ``shared`` lets others hold it too that say the same."""
    opened = socket.socket(family, socket.SOCK_STREAM)  # fails where there is no IPv6
    try:
        # Ignore connections that have just ended: they are no server.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shared))
        opened.bind(place)
    except OSError:
        opened.close()
        raise
    return opened


def cannot_listen(listen: str, reason: str | OSError) -> ConfigurationError:
    """The error for an address that cannot be used."""
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
    errors = []
    for family, _, _, _, place in places:
        try:
            bound(family, place).close()
        except OSError as error:
            errors.append(error)
    # A host name may have addresses of other machines. But no server may use one of them here.
    taken = [error for error in errors if error.errno == errno.EADDRINUSE]
    if taken or len(errors) == len(places):
        return _words((taken or errors)[0])
    return None


def _why_not_path(path: Path) -> str | None:
    folder = path.parent
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return f"the path of a socket has at most {_LONGEST_PATH} bytes; take a shorter one"
    if not folder.exists():
        return f"there is no folder {folder}; create it first"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write to the folder {folder}"
    if not path.exists():
        return None
    if not stat.S_ISSOCK(path.stat().st_mode):
        return "the file there is not a socket; remove it, or take another path"
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ANSWERS_WITHIN)
        if asking.connect_ex(str(path)) == errno.ECONNREFUSED:
            return None
    return "another server serves this socket; stop it, or take another path"
