"""All files that a server is configured by."""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from openlimit_server.config.certificates import CertificateFiles
from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.keys import KeyFile
from openlimit_server.config.reload import Files
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

    def replace_spares(self, spares: str) -> None:
        """By what ``spares`` of another process says now."""
        contents: Sequence[Sequence[str]] = json.loads(spares)
        every: Sequence[Files[Any]] = self
        for files, own in zip(every, contents, strict=True):
            files.spare = [*map(b64decode, own)]

    def spares(self) -> str:
        """What was loaded last, in a line for another process."""
        return json.dumps([[b64encode(each).decode() for each in files.contents] for files in self])


def validated(settings: Settings) -> str:
    """What is in the file of policies that is to be checked, and in the other files that are given:
    a line for each. Raises ConfigurationError, with a line for each fault of all of them."""
    path = settings.validate_file
    sources = Sources.of(settings.model_copy(update={"config": path}))
    faults = []
    for files in sources:
        try:
            files.load()
        except ConfigurationError as error:
            faults.append(str(error))
    if faults:
        raise ConfigurationError("\n".join(faults))
    policies, domains = sources.configuration.loaded.policies, sources.configuration.loaded.domains
    lines = [_good(path, "policies", [policy.name for policy in policies])]
    if domains:
        lines.append(_good(settings.domains or path, "domains", [each.domain for each in domains]))
    if settings.keys:
        lines.append(_good(settings.keys, "keys", [key.name for key in sources.keys.loaded]))
    if settings.tls_cert:
        described = sources.certificates.described(sources.certificates.loaded)
        lines.append(f"{settings.tls_cert}: good, {described}")
    return "\n".join(lines)


def _good(path: Path | None, what: str, names: Sequence[str]) -> str:
    return f"{path}: good, with {len(names)} {what}: {', '.join(names)}"


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path]
