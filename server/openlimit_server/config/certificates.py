"""The server's certificate, its private key, and the authority of the clients' certificates."""

import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.reload import Files

_CERTIFICATE = re.compile(
    rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\r?\n?", re.DOTALL
)


class Certificate(NamedTuple):
    """What a server shows to its clients, and whose certificates it takes from them; in PEM."""

    chain: bytes
    private_key: bytes
    client_authority: bytes | None
    """None where clients need none."""

    @property
    def own(self) -> bytes:
        """The server's, without those that vouch for it."""
        found = _CERTIFICATE.search(self.chain)
        return found[0] if found else b""


class CertificateFiles(Files[Certificate | None]):
    """Of the certificate, the private key and, if clients have to show theirs, the authority.

    Without files there is none, and the server speaks plain text.
    """

    what = "the certificates"

    def __init__(self, paths: Sequence[Path], spare: Sequence[bytes] = ()) -> None:
        super().__init__(paths, spare)
        self._names: list[str] = []
        self._until = ""

    def check(self) -> None:
        if self.paths:
            shown = _shown(*self.paths[:2])
            self._names, self._until = _names(shown), shown["notAfter"]
            self.expires = ssl.cert_time_to_seconds(self._until)

    def read(self, contents: Sequence[bytes]) -> Certificate | None:
        if not contents:
            return None
        chain, private_key, *authority = contents
        if authority:
            _require_authority(authority[0], self.paths[2])
        return Certificate(chain, private_key, authority[0] if authority else None)

    def described(self, value: Certificate | None) -> str:
        return f"of {', '.join(self._names)}, until {self._until}"

    def name(self) -> str:
        """One under which a client may know the server whose certificate was just loaded."""
        return self._names[0].replace("*", "any")


def _names(shown: dict[str, Any]) -> list[str]:
    names = shown.get("subjectAltName", ())
    return [name for kind, name in names if kind in ("DNS", "IP Address")]


def _require_authority(authority: bytes, path: Path) -> None:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=authority.decode("ascii", "ignore"))
    except (OSError, ValueError) as error:  # as for an empty text
        raise ConfigurationError(f"{path}: has no certificate in PEM ({_words(error)})") from error


def _shown(chain: Path, private_key: Path) -> dict[str, Any]:
    """What a client is shown that trusts this very certificate: a handshake without a network.

    Raises ConfigurationError for what no client could use: the wrong key, or one whose time is
    over.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        server.load_cert_chain(chain, private_key, password="")  # else it asks the terminal
        client.load_verify_locations(chain)
        asking = client.wrap_bio(to_client, to_server)
        answering = server.wrap_bio(to_server, to_client, server_side=True)
        for each in (asking, answering, asking):
            with suppress(ssl.SSLWantReadError):
                each.do_handshake()
        shown: dict[str, Any] = asking.getpeercert() or {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{chain}: cannot be used with the private key {private_key}: {_words(error)}"
        ) from error
    if not _names(shown):
        raise ConfigurationError(f"{chain}: names no host (subjectAltName), so no client takes it")
    return shown


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if "PEM lib" in str(error):  # all that OpenSSL says
        return "one of them is not in PEM, or the key has a password"
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return str(reason or error).lower().replace("_", " ").partition(" (ssl.c")[0]
