"""Scripts that Redis runs, and the JSON in which they are asked."""

from hashlib import sha1
from importlib.resources import files
from json import JSONEncoder
from typing import NamedTuple

# JSON as a whole: redis-py spends microseconds on every argument.
json = JSONEncoder(separators=(",", ":")).encode


class Script(NamedTuple):
    """A script's text, and the name by which Redis knows it once it is loaded."""

    text: str
    sha: str

    @classmethod
    def read(cls, file: str) -> "Script":
        """The script in a file beside this one."""
        text = files("openlimit.stores.redis.lua").joinpath(file).read_text(encoding="utf-8")
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
