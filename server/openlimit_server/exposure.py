"""What others could do to a server, by its configuration: warnings for its operator."""

import logging
from collections.abc import Iterable, Iterator

from openlimit_server.config.keys import Keys
from openlimit_server.config.policies import PolicySettings
from openlimit_server.config.settings import Settings
from openlimit_server.config.sources import Sources

_log = logging.getLogger("openlimit")


def warn_if_open(settings: Settings) -> None:
    """Warn if other machines reach the server in plain text."""
    if settings.is_open_to_others:
        _log.warning(
            "PLAIN TEXT on %s: whoever is on the way can read and change all calls%s; give "
            "--tls-cert and --tls-key, or listen on 127.0.0.1 behind a proxy that encrypts",
            settings.listen,
            ", and steal API keys" if settings.keys else "",
        )


class Claims:
    """Warns of what callers can gain by what they say of themselves: of each once, until it is
    mended."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._told: list[str] = []

    def warn(self) -> None:
        """By what the files say now."""
        policies, keys = self._sources.configuration.loaded.policies, self._sources.keys.loaded
        told, self._told = self._told, [*claims(policies, keys)]
        for warning in self._told:
            if warning not in told:
                _log.warning(warning)


def claims(policies: Iterable[PolicySettings], keys: Keys) -> Iterator[str]:
    """A warning for each level whose weights any caller can claim, or that of some key."""
    for policy in policies:
        for label in (level.label for level in policy.levels if level.weights):
            free = [key.name for key in keys if label not in key.labels and "acquire" in key.may]
            whose, why = "any caller", "this server does not know who its callers are"
            if keys:
                whose = f"callers with the keys {', '.join(free)}"
                why = "these keys do not fix it"
            if free or not keys:
                yield (
                    f"policy {policy.name}: its weights depend on the label {label}, and {whose} "
                    f"may claim any {label}, since {why}"
                )
