"""All that a server is told of limits: the files, what they mean, and their schema."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from openlimit_server.config.document import read_document
from openlimit_server.config.domains import DomainSettings, Known
from openlimit_server.config.faults import ConfigurationError
from openlimit_server.config.policies import DEFAULT_POLICIES, PolicySettings
from openlimit_server.config.reload import Files, Stamp, read_file, stamp_of

Policies = tuple[PolicySettings, ...]


class Configuration(BaseModel):
    """Policies, and domains for proxies."""

    model_config = ConfigDict(extra="forbid")

    policies: Policies = Field(min_length=1)
    domains: tuple[DomainSettings, ...] = ()

    @field_validator("policies")
    @classmethod
    def _are_known(cls, policies: Policies, info: ValidationInfo) -> Policies:
        """To the domains below them."""
        if info.context:
            info.context.policies.update({policy.name: policy for policy in policies})
        return policies


class Contents(BaseModel):
    """What the files contain, by their paths."""

    model_config = ConfigDict(frozen=True, ser_json_bytes="base64", val_json_bytes="base64")

    policies: tuple[str, bytes] | None
    """None for the default ones."""
    domains: tuple[tuple[str, bytes], ...] = ()
    """Files that are written as those of envoyproxy/ratelimit."""


def read_contents(policies: Path | None, domains: Path | None) -> Contents:
    """A file of policies, and a file of domains, or all in a folder. Blocks; raises
    ConfigurationError."""
    return Contents(
        policies=_content(policies) if policies else None,
        domains=tuple([_content(path) for path in files_of(domains)]),
    )


def files_of(domains: Path | None) -> Sequence[Path]:
    """The files of domains. Blocks; raises ConfigurationError where there are none."""
    if domains is None:
        return ()
    if not domains.is_dir():
        return [domains]
    found = sorted(each for each in domains.iterdir() if each.suffix in (".yaml", ".yml"))
    if not found:
        raise ConfigurationError(f"{domains}: has no *.yaml; name a file or folder of domains")
    return found


def read(contents: Contents) -> Configuration:
    """What they mean. Raises ConfigurationError, whose message has a line for each fault."""
    known = Known(policies={policy.name: policy for policy in DEFAULT_POLICIES})
    configuration = Configuration(policies=DEFAULT_POLICIES)
    if contents.policies:
        known = Known()
        expected = "a mapping with policies: and a list below it"
        configuration = read_document(*contents.policies, Configuration, known, expected)
    expected = "a mapping with domain: and descriptors:"
    others = [read_document(*each, DomainSettings, known, expected) for each in contents.domains]
    return configuration.model_copy(update={"domains": (*configuration.domains, *others)})


class ConfigurationFiles(Files[Configuration]):
    """The file of policies, and that of domains, or all in a folder; without any, the default
    policies."""

    what = "the policies"

    def __init__(
        self, policies: Path | None, domains: Path | None = None, spare: Sequence[bytes] = ()
    ) -> None:
        super().__init__([path for path in (policies, domains) if path], spare)
        self._policies = policies
        self._domains = domains

    def gather(self) -> Sequence[bytes]:
        return [read_contents(self._policies, self._domains).model_dump_json().encode()]

    def read(self, contents: Sequence[bytes]) -> Configuration:
        return read(Contents.model_validate_json(contents[0]))

    def described(self, value: Configuration) -> str:
        return ", ".join(policy.name for policy in value.policies)

    def stamp(self) -> Stamp:
        paths = [self._policies] if self._policies else []
        with suppress(OSError, ConfigurationError):
            paths += files_of(self._domains)
        return [stamp_of(path) for path in paths]


def schema() -> str:
    """The JSON schema of the file of policies, for editors."""
    found = Configuration.model_json_schema()
    found["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(found, indent=2)


def _content(path: Path) -> tuple[str, bytes]:
    # Names of files are bytes, which need not be UTF-8.
    return os.fsencode(path).decode(errors="backslashreplace"), read_file(path)
