"""`__all__` of every package holds: each name resolves, none is listed twice, no imported one is missing."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(
    ".".join(path.parent.relative_to(ROOT).parts)
    for package in ("gptcore", "eval", "flows")
    for path in (ROOT / package).rglob("__init__.py")
)


def imported_names(tree: ast.Module) -> set[str]:
    """What a package's `__init__.py` takes from its modules for others to use."""
    return {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }


def test_the_three_packages_are_found() -> None:
    assert {"gptcore", "eval", "flows"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_all_names_resolve_and_nothing_public_is_missing(name: str) -> None:
    package = importlib.import_module(name)
    listed = list(getattr(package, "__all__", []))
    assert sorted(set(listed)) == sorted(listed), f"{name}.__all__ lists a name twice"
    assert [entry for entry in listed if not hasattr(package, entry)] == []
    source = Path(str(package.__file__)).read_text(encoding="utf-8")
    offered = {entry for entry in imported_names(ast.parse(source)) if not entry.startswith("_")}
    assert sorted(offered - set(listed)) == [], f"{name}/__init__.py imports names that its __all__ does not list"
