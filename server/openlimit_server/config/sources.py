"""All files that a server is configured by."""

import json
from base64 import b64decode, b64encode
from pathlib import Path
from typing import NamedTuple

from openlimit_server.config.certificates import CertificateFiles
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.keys import KeyFile
from openlimit_server.config.settings import Settings


class Sources(NamedTuple):
    """Each is loaded on its own."""

    configuration: ConfigurationFiles
    keys: KeyFile
    certificates: CertificateFiles

    @classmethod
    def of(cls, settings: Settings, spares: str = "[[], [], []]") -> "Sources":
        """With what ``spares`` of another process said, for files that are bad by now."""
        policies, keys, certificates = (map(b64decode, each) for each in json.loads(spares))
        tls = settings.tls_cert, settings.tls_key, settings.tls_client_ca
        return cls(
            ConfigurationFiles(settings.config, settings.domains, [*policies]),
            KeyFile(_given(settings.keys), [*keys]),
            CertificateFiles(_given(*tls), [*certificates]),
        )

    def load(self) -> None:
        """Raises ConfigurationError for the first that is bad. Blocks."""
        for files in self:
            files.load()

    def spares(self) -> str:
        """What was loaded last, in a line for another process."""
        return json.dumps([[b64encode(each).decode() for each in files.contents] for files in self])


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path]
