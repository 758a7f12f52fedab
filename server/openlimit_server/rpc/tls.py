"""How the server encrypts, and how it asks itself for its health over that."""

from collections import deque
from typing import Any

import grpc

from openlimit_server.config.certificates import Certificate


class Encryption:
    """By the certificate that was given last; connections keep the one that they began with."""

    def __init__(self, certificate: Certificate) -> None:
        self._first = _configuration(certificate)
        self._asks_clients = certificate.client_authority is not None
        self._new: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)

    def replace(self, certificate: Certificate) -> None:
        """For connections from now on. Does not block."""
        self._new.append(_configuration(certificate))

    def credentials(self) -> grpc.ServerCredentials:
        """For a port. Clients have to show a certificate if there is an authority for these."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self._changed, require_client_authentication=self._asks_clients
        )

    def _changed(self) -> Any:
        """What is new, or None; gRPC asks before each handshake, in threads of its own."""
        try:
            return self._new.pop()
        except IndexError:
            return None


def _configuration(certificate: Certificate) -> grpc.ServerCertificateConfiguration:
    chain, private_key, authority = certificate
    # Whoever has the server's own key is a client too: that is how it asks itself for its health.
    roots = authority and authority + b"\n" + certificate.own
    return grpc.ssl_server_certificate_configuration([(private_key, chain)], roots)


def credentials_to_ask(certificate: Certificate) -> grpc.ChannelCredentials:
    """For a client that trusts this very certificate, and shows it if it is asked."""
    if certificate.client_authority is None:
        return grpc.ssl_channel_credentials(certificate.own)
    return grpc.ssl_channel_credentials(certificate.own, certificate.private_key, certificate.chain)
