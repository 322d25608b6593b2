"""Public names from source: ``pandas.core.frame.DataFrame`` is known to its users as ``pandas.DataFrame``.

The package's ``__init__`` files say so by their ``from ... import ...`` lines, which are followed without importing.
"""

from __future__ import annotations

import ast
import warnings
from pathlib import Path


class PublicNames:
    """Looks names up in one library's folder; parses each ``__init__`` (and what it draws from) at most once."""

    def __init__(self, folder: Path, *, package: str) -> None:
        self._folder = folder
        self._package = package
        self._exports: dict[str, dict[str, tuple[str, str]]] = {}

    def public(self, module: str, name: str) -> str:
        """The name under which users find it.

        Args:
            module: dotted path of the defining file below the library's folder; empty for its ``__init__``.
            name: dotted name inside the file; empty for the module itself.
        """
        prefix = "" if self._package == "stdlib" else self._package
        if not name:
            return ".".join(part for part in (prefix, module) if part) or self._package
        head = name.partition(".")[0]
        parts = module.split(".") if module else []
        shortest = range(0 if prefix else 1, len(parts))
        for length in shortest:
            above = ".".join(parts[:length])
            if self._origin(above, head) == (module, head):
                return ".".join(part for part in (prefix, above, name) if part)
        shown = [part for part in parts if not part.startswith("_")]
        return ".".join(part for part in (prefix, *shown, name) if part)

    def _origin(self, module: str, name: str, *, depth: int = 4) -> tuple[str, str]:
        """Module and name that ``module.name`` was first defined as, as far as import lines say."""
        target = self._imports(module).get(name)
        if target is None or depth == 0:
            return module, name
        source, original = target
        return self._origin(source, original, depth=depth - 1)

    def _imports(self, module: str) -> dict[str, tuple[str, str]]:
        if module not in self._exports:
            self._exports[module] = self._read_imports(module)
        return self._exports[module]

    def _read_imports(self, module: str) -> dict[str, tuple[str, str]]:
        base = self._folder.joinpath(*module.split(".")) if module else self._folder
        is_package = (base / "__init__.py").is_file()
        path = base / "__init__.py" if is_package else base.with_suffix(".py")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return {}
        found: dict[str, tuple[str, str]] = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and (source := self._source(node, module, is_package)) is not None:
                found.update({alias.asname or alias.name: (source, alias.name) for alias in node.names})
        return found

    def _source(self, node: ast.ImportFrom, module: str, is_package: bool) -> str | None:
        """Dotted path of an import's source below the library's folder; None for another library."""
        named = node.module or ""
        if node.level:
            here = module.split(".") if module else []
            up = node.level - 1 if is_package else node.level
            kept = here[: len(here) - up] if up else here
            return ".".join([*kept, *([named] if named else [])])
        if named == self._package:
            return ""
        if named.startswith(f"{self._package}."):
            return named.removeprefix(f"{self._package}.")
        return named if self._package == "stdlib" else None
