"""API keys: whom the server knows, which labels are theirs, and what they may do.

A key is a long random token. The server keeps its SHA-256 only, which is enough for a token that
nobody can guess. No message of this module repeats a token, or anything in its place.
"""

import re
import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from openlimit.context import MOST_LABELS
from openlimit_server.config import marked_yaml, notation
from openlimit_server.config.document import read_document
from openlimit_server.config.labels import Label, Value
from openlimit_server.config.reload import Files

Right = Literal["acquire", "penalize", "admin"]
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII | re.IGNORECASE)
_TOKEN = re.compile(r"[!-~]{32,1024}")
_PREFIX = "olk_"  # what scanners of source code know a leaked token by


def hash_of(token: str) -> bytes:
    """What the server keeps of a token."""
    return sha256(token.encode()).digest()


_OF_NOTHING = hash_of("")


def _hash(text: object) -> bytes:
    if not isinstance(text, str) or not _HASH.fullmatch(text):
        raise ValueError(
            f"expected the SHA-256 of a token, 64 hexadecimal digits, not {_hidden(text)}; "
            "openlimit-server --new-key prints one"
        )
    if (found := bytes.fromhex(text)) == _OF_NOTHING:
        raise ValueError(
            "is that of an empty text, as of a variable that was not set: hash the token itself; "
            "openlimit-server --new-key prints one with its hash"
        )
    return found


def _token(text: object) -> bytes:
    if not isinstance(text, marked_yaml.FilledIn):
        raise ValueError("a token comes from the environment, such as ${NAME}; else write its hash")
    if not _TOKEN.fullmatch(text):
        raise ValueError(
            f"expected a token of 32 to 1,024 visible ASCII characters, not {_hidden(text)}; "
            "openlimit-server --new-key prints one"
        )
    return hash_of(text)


def _hidden(value: object) -> str:
    """A value as messages show it that may hold a secret."""
    return f"a text of {len(value)}" if isinstance(value, str) else notation.shown(value)


_Hash = Annotated[bytes, BeforeValidator(_hash)]
_TokenHash = Annotated[bytes, BeforeValidator(_token)]


class KeySettings(BaseModel):
    """One key: its hash, or its token from the environment, of which the hash is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: notation.Name
    hash: _Hash | None = Field(None, repr=False)
    token: _TokenHash | None = Field(None, repr=False, validate_default=True)
    labels: dict[Label, Value] = Field(default={}, max_length=MOST_LABELS)
    """Of all its calls: no other values can be claimed. ``key`` may be among them."""
    may: tuple[Right, ...] = Field(("acquire",), min_length=1)
    """``acquire``: reserve, and settle what was reserved. ``penalize``: pass on what a provider
    says, which pauses models. ``admin``: change what holds for all."""

    @property
    def digest(self) -> bytes:
        """The SHA-256 of its token."""
        digest = self.hash or self.token
        assert digest
        return digest

    @field_validator("name")
    @classmethod
    def _is_new(cls, name: str, info: ValidationInfo) -> str:
        above = _above(info)
        if name.startswith(_PREFIX):
            raise ValueError("is a key itself, and names are logged; write what the key is for")
        if name in above.values():
            raise ValueError(f"a key named {name!r} stands above already; names must differ")
        above[name] = name  # until its digest is known
        return name

    @field_validator("token")
    @classmethod
    def _is_one(cls, token: bytes | None, info: ValidationInfo) -> bytes | None:
        if "hash" not in info.data or "name" not in info.data:  # which is a fault of its own
            return token
        own, above = info.data["hash"], _above(info)
        if own and token:
            raise ValueError("stands beside a hash: keep one of them")
        if not (own or token):
            raise ValueError("is required, or else hash: the server has to know the key by one")
        if (own or token) in above:
            raise ValueError(
                f"or the hash is that of the key {above[own or token]}: each needs one of its own"
            )
        above[own or token] = info.data["name"]
        return token

    @field_validator("labels")
    @classmethod
    def _are_of_callers(cls, labels: dict[str, str]) -> dict[str, str]:
        if "model" in labels:
            raise ValueError("cannot fix model: that is what a call is for, not whose it is")
        return labels


def _above(info: ValidationInfo) -> dict[object, str]:
    """The names of the keys that stand above in the file, by digest."""
    return {} if info.context is None else info.context


Keys = tuple[KeySettings, ...]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: Keys = Field(min_length=1)


class KeyFile(Files[Keys]):
    """The keys of a file; without one there are none, and anybody may do everything."""

    what = "the keys"

    def read(self, contents: Sequence[bytes]) -> Keys:
        return read_keys(contents[0], str(self.paths[0])) if contents else ()

    def described(self, value: Keys) -> str:
        return ", ".join(key.name for key in value)


def read_keys(data: bytes, path: str) -> Keys:
    """The keys of a YAML document. ``path`` is what messages call it.

    Raises ConfigurationError, whose message has a line for each fault, and no value of a field.
    """
    expected = "a mapping with keys: and a list below it"
    return read_document(path, data, _File, {}, expected, _hidden).keys


def new_key() -> str:
    """A token that was never there before, and its hash, in words."""
    token = _PREFIX + secrets.token_urlsafe(32)
    return (
        f"token: {token}  # for the caller, as OPENLIMIT_API_KEY; it is not kept anywhere\n"
        f"hash: {hash_of(token).hex()}  # for the file of keys"
    )
