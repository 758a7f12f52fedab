"""Files of API keys, and tokens for them."""

import json
from hashlib import sha256
from pathlib import Path


def token_of(name: str) -> str:
    """Always the same for a name."""
    return f"olk_{name}_".ljust(43, "x")


def a_key(name: str, *may: str, **labels: str) -> str:
    """One of the file, in the JSON that is YAML."""
    digest = sha256(token_of(name).encode()).hexdigest()
    rights = may or ("acquire",)
    return json.dumps({"name": name, "hash": digest, "labels": labels, "may": rights})


def write_keys(path: Path, *keys: str) -> None:
    """In place of what was there, at once."""
    new = path.with_suffix(".new")
    new.write_text("keys:\n" + "".join(f"  - {each}\n" for each in keys))
    new.replace(path)
