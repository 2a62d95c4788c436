"""Defers imports that ``import fedmsg.config`` would make and most processes never use.

These imports take more than half of the time until a command sends its first message, and until a
relay is bound.  A deferred module is imported at its first use as an attribute of its package, by
Python and under Python's own locks: no thread sees a half-imported module.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence

DEFERRED = {
    "fedmsg.core": ("fedmsg", "crypto"),
    "xml.sax.saxutils": ("urllib", "request"),
}
"""By the module that imports it: a package, and its module that is deferred."""


@contextlib.contextmanager
def deferring() -> Iterator[None]:
    """Defer :data:`DEFERRED` where a module is imported within the block."""
    sys.meta_path.insert(0, _Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(_Finder)


class _Finder:
    """Finds the modules that import a deferred one."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in DEFERRED:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """Executes a module but for one import, which its package then makes at the first use."""

    def get_code(self, fullname: str) -> types.CodeType | None:
        code = super().get_code(fullname)
        if code is None:
            return None
        package, child = DEFERRED[fullname]
        # "import fedmsg.crypto" binds "fedmsg", and so does "import fedmsg".
        names = (package if name == f"{package}.{child}" else name for name in code.co_names)
        return code.replace(co_names=tuple(names))

    def exec_module(self, module: types.ModuleType) -> None:
        package, child = DEFERRED[module.__name__]

        def import_child(name: str) -> types.ModuleType:
            if name != child:
                raise AttributeError(f"module {package!r} has no attribute {name!r}")
            return importlib.import_module(f"{package}.{child}")

        vars(importlib.import_module(package)).setdefault("__getattr__", import_child)
        super().exec_module(module)
