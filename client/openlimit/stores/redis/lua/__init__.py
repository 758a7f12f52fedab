"""Scripts that Redis runs."""

from hashlib import sha1
from importlib.resources import files
from typing import NamedTuple


class Script(NamedTuple):
    """A script's text, and the name by which Redis knows it once it is loaded."""

    text: str
    sha: str

    @classmethod
    def read(cls, *parts: str | tuple[str, ...]) -> "Script":
        """The script in files beside this one, each of which goes on where the last ended. Several
        in one tuple are a function: it has room for its own 200 locals, and what is made in it
        finds those outside faster."""
        text = "\n".join(
            _read(part) if isinstance(part, str) else _function_of(*part) for part in parts
        )
        return cls(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


def _read(part: str) -> str:
    return files("openlimit.stores.redis.lua").joinpath(part).read_text(encoding="utf-8")


def _function_of(*parts: str) -> str:
    return "\n".join(["local function inside()", *map(_read, parts), "end", "inside()"])


BUCKET = Script.read(
    *("call.lua", "state.lua", "acquire.lua", "marks.lua", "repeat.lua"),
    *("levels.lua", "correct.lua", "decide.lua", "write.lua"),
)
LINE = Script.read(
    *("call.lua", "told.lua", "state.lua", "marks.lua", "levels.lua", "correct.lua"),
    (
        *("names.lua", "sets.lua", "tree.lua", "ready.lua", "fair.lua", "line.lua", "slots.lua"),
        *("next.lua", "remembered.lua", "servers.lua", "brought.lua", "runs.lua"),
        *("carry_out.lua", "keep.lua"),
    ),
    "write.lua",
)
LOOK, FIND, NOTES = Script.read("look.lua"), Script.read("find.lua"), Script.read("notes.lua")
