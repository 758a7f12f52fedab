"""Scripts that Redis runs."""

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script's text, and the name by which Redis knows it once it is loaded."""

    text: str
    sha: str

    @classmethod
    def read(cls, *parts: str) -> "Script":
        """The script in files beside this one, each of which goes on where the last ended."""
        folder = files("openlimit.stores.redis.lua")
        text = "\n".join(folder.joinpath(part).read_text(encoding="utf-8") for part in parts)
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


BUCKET = Script.read(
    *("call.lua", "state.lua", "acquire.lua", "marks.lua", "repeat.lua"),
    *("levels.lua", "correct.lua", "decide.lua", "write.lua"),
)
SLOTS = Script.read("slots.lua")
LINE = Script.read(
    *("call.lua", "told.lua", "state.lua", "marks.lua", "levels.lua", "correct.lua"),
    *("tree.lua", "fair.lua", "line.lua", "next.lua"),
    *("servers.lua", "carry_out.lua", "keep.lua", "write.lua"),
)
