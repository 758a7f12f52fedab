"""The house: what begins with ``_`` is nobody else's business. Layers are import-linter's."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("client/openlimit", "server/openlimit_server")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Each module that a file imports from, and the name; or the module alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_nothing_private_leaves_its_folder() -> None:
    """No module imports a private name of another module, or a private module of another folder."""
    assert len(SOURCES) > 80
    strays = []
    for path in SOURCES:
        folder = ".".join(path.parent.relative_to(ROOT).parts[1:])
        for module, name in imports(path):
            if not module.startswith(("openlimit.", "openlimit_server.")):
                continue
            *above, last = module.split(".")
            is_foreign_module = any(map(is_private, above)) or (
                is_private(last) and ".".join(above) != folder
            )
            is_foreign_name = is_private(name) and module != folder
            if is_foreign_module or is_foreign_name:
                strays.append(f"{path.name} imports {module} {name}")
    assert not strays
