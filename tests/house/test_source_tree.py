"""What every file of the project keeps to: size, names, docstrings, annotations, and no shadowed packages."""

from __future__ import annotations

import ast
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gptcore", "eval", "flows")
MAX_LINES = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the given folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Public functions, classes and methods with dotted names; what is inside a function is its own affair."""
    for node in body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from public_definitions(node.body, f"{prefix}{node.name}.")


def is_overload(node: ast.AST) -> bool:
    """True for the signature-only variants that `typing.overload` marks."""
    return any(ast.unparse(decorator).endswith("overload") for decorator in getattr(node, "decorator_list", []))


def unannotated(function: Function, *, is_method: bool) -> list[str]:
    """Names of the parameters without an annotation, and `return` where the result has none."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    is_static = any(ast.unparse(decorator) == "staticmethod" for decorator in function.decorator_list)
    if is_method and not is_static:
        named = named[1:]
    extra = [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    missing = [argument.arg for argument in [*named, *arguments.kwonlyargs, *extra] if argument.annotation is None]
    return missing if function.returns is not None else [*missing, "return"]


def all_functions(tree: ast.Module) -> Iterator[tuple[Function, bool]]:
    """Every function of a module, private and nested ones included, and whether it is a method."""
    for parent in ast.walk(tree):
        for child in ast.iter_child_nodes(parent):
            if isinstance(child, Function):
                yield child, isinstance(parent, ast.ClassDef)


def test_there_is_something_to_look_at() -> None:
    for package in PACKAGES:
        assert python_files(package), f"no Python file in {package}/"


def test_no_file_is_longer_than_the_limit() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in python_files(*PACKAGES, "tests", "benchmarks")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES, "tests", "benchmarks")
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_public_functions_and_classes_have_docstrings() -> None:
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {name}"
        for path in python_files(*PACKAGES)
        for name, node in public_definitions(ast.parse(path.read_text(encoding="utf-8")).body)
        if not ast.get_docstring(node) and not is_overload(node)
    ]
    assert silent == []


def test_every_function_is_fully_annotated() -> None:
    gaps = [
        f"{path.relative_to(ROOT)}:{function.lineno} {function.name}: {', '.join(missing)}"
        for path in python_files(*PACKAGES)
        for function, is_method in all_functions(ast.parse(path.read_text(encoding="utf-8")))
        if (missing := unannotated(function, is_method=is_method))
    ]
    assert gaps == []


def test_no_module_has_a_vague_name() -> None:
    vague = [
        str(path.relative_to(ROOT))
        for path in python_files(*PACKAGES, "tests", "benchmarks")
        if path.stem in VAGUE_NAMES or path.parent.name in VAGUE_NAMES
    ]
    assert vague == []


def test_tests_hold_no_package_marker() -> None:
    """`tests/eval/__init__.py` would hide the package `eval` from the tests."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_every_folder_with_modules_is_a_package() -> None:
    """Installed, a folder without `__init__.py` would be left out."""
    folders = {path.parent for path in python_files(*PACKAGES)}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_flow_modules_shadow_nothing() -> None:
    """Prefect loads a flow with `flows/` first on `sys.path`: `flows/eval.py` would stand in for the package `eval`."""
    installed = {name.lower() for name in importlib.metadata.packages_distributions()}
    taken = installed | set(sys.stdlib_module_names) | set(PACKAGES)
    taken.discard("flows")
    modules = {path.name.removesuffix(".py") for path in (ROOT / "flows").iterdir() if not path.name.startswith("_")}
    assert sorted(modules & taken) == []


def test_import_contracts_are_kept() -> None:
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    result = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.flows
def test_the_pinned_fastapi_serves_prefect() -> None:
    """Some releases of Prefect cannot import their own server with a later FastAPI; no flow could then run."""
    result = subprocess.run(
        [sys.executable, "-c", "import prefect.server.api.server"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
