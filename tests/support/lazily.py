"""Modules that take seconds to import, for the tests that need them alone.

Every worker of pytest-xdist imports every test module, though it runs only some of them.
"""

import sys
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType


def lazily(name: str) -> ModuleType:
    """The module, which is imported when it is first used."""
    if name not in sys.modules:
        spec = find_spec(name)
        assert spec
        assert spec.loader
        loader = spec.loader = LazyLoader(spec.loader)
        sys.modules[name] = module_from_spec(spec)
        loader.exec_module(sys.modules[name])
    return sys.modules[name]
