"""Where a server is, as gRPC writes it: who can read what is sent there, and by which proxy."""

import logging
import os
import re
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from openlimit.errors import InvalidRequest

DEFAULT_ADDRESS = "localhost:50051"
_ADDRESS = re.compile(r"(?!https?://|grpcs?://)\S(?:.*\S)?")
_API_KEY = re.compile(r"[!-~]{1,1024}")
_warned_of: set[str] = set()
"""Addresses to which API keys go in plain text."""

_log = logging.getLogger(__name__)


def require_address(address: object) -> None:
    """Raise InvalidRequest for what no server can listen at."""
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise InvalidRequest("address", f"must be such as localhost:50051, not {address!r}")


def require_sendable(api_key: object, address: str, *, is_encrypted: bool) -> None:
    """Raise InvalidRequest for what is no API key; warn, once for each address, of one that others
    on the way can read. Its value is in no message."""
    if not isinstance(api_key, str) or not _API_KEY.fullmatch(api_key):
        raise InvalidRequest(
            "api_key", "must be a text of 1 to 1,024 visible ASCII characters, without blanks"
        )
    if not (is_encrypted or is_local(address) or address in _warned_of):
        _warned_of.add(address)
        _log.warning(
            "the API key goes to %s in plain text, and whoever is on the way can read it; pass "
            "credentials=grpc.ssl_channel_credentials()",
            address,
        )


def proxy_of(address: str) -> str:
    """The proxy that a channel to the address takes and the variable that names it; or "".

    Without its credentials.
    """
    variable = next(filter(os.environ.get, ("grpc_proxy", "https_proxy", "http_proxy")), "")
    if not variable or is_local(address):
        return ""
    proxy = os.environ[variable]
    try:
        if any(_is_excepted(host) for host in _hosts(address)):
            return ""
        found = urlsplit(proxy)
        where = f"{found.hostname}:{found.port}" if found.port else found.hostname or "?"
    except ValueError:
        where = "?"
    return f"{where} ({variable})"


def _hosts(address: str) -> list[str]:
    """The hosts of an address as gRPC writes it."""
    listed = re.match(".*ipv[46]:(.*)", address)
    targets = listed[1].split(",") if listed else [address.rpartition("/")[2].removeprefix("dns:")]
    return [urlsplit(f"//{target}").hostname or "" for target in targets]


def is_local(address: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if address.startswith(("unix:", "unix-abstract:", "vsock:")):
        return True
    try:
        return all(_is_loopback(host) for host in _hosts(address))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_excepted(host: str) -> bool:
    """Whether no_proxy says so, by the end of a name or by a network."""
    environment = os.environ  # as gRPC reads it: the names are in small letters
    said = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    for each in filter(None, map(str.strip, said.split(","))):
        if host.endswith(each):
            return True
        try:
            if ip_address(host) in ip_network(each):
                return True
        except ValueError:
            continue
    return False
