"""The demo's corpus: docstrings of the packages that every installation already has, read without importing them.

Files are parsed with ``ast`` in an order given by the hash of their path, until a library's quota of characters is
full: the same versions give the same docstrings on every machine, and a few seconds are enough for a few megabytes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path, PurePosixPath
from typing import Literal

from flows.sources.public_names import PublicNames
from gptcore.config import nearest
from gptcore.errors import ConfigError, DataError

Kind = Literal["module", "class", "function", "method"]
LIBRARIES = ("stdlib", "numpy", "pandas", "scipy", "sklearn", "torch", "matplotlib", "sqlalchemy")
"""The libraries of the demo; also the classes of its classification."""
DISTRIBUTIONS = {"sklearn": "scikit-learn"}
"""Libraries that are installed under another name."""
_SKIPPED_FOLDERS = {
    *("test", "tests", "testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"),
    *("__pycache__", "_inductor", "_vendor", "_vendored", "externals", "array_api_compat", "array_api_extra"),
    *("distutils", "pydoc_data", "_precompute", "_build_utils", "ensurepip"),
}
_LONGEST_FILE = 750_000
"""Bytes; a few longer files (tables of data, generated code) would take as long to parse as all the others."""
_SHORTEST = 80
_LONGEST_SIGNATURE = 160

_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Docstring:
    """One docstring and what it documents."""

    library: str
    """One of ``LIBRARIES``."""
    qualified_name: str
    """Public name where the source gives it: ``pandas.DataFrame.merge``."""
    kind: Kind
    signature: str
    """``(left, right, how='inner')`` without annotations and ``self``; empty for modules and very long ones."""
    text: str
    """Cleaned of its indentation."""
    path: str
    """File it stands in, relative to the library's folder."""

    @property
    def document(self) -> str:
        """Identity of the document, the same for everything that is derived from it."""
        return f"{self.library}:{self.qualified_name}"

    @property
    def is_public(self) -> bool:
        """False when a part of its name begins with an underscore."""
        return not any(part.startswith("_") for part in self.qualified_name.split("."))

    @property
    def page(self) -> str:
        """The docstring under its heading, as pretraining text."""
        return f"{self.kind} {self.qualified_name}{self.signature}\n\n{self.text}\n"


def iter_docstrings(
    library: str,
    *,
    root: Path | None = None,
    limit_documents: int | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[Docstring]:
    """The distinct docstrings of over 80 characters of one library, in a fixed pseudo-random order of files.

    Args:
        library: one of ``LIBRARIES``, or any name when ``root`` is given.
        root: folder of the library's source; otherwise found from the installation, without importing.
        limit_documents: the most docstrings; None sets no limit.
        skipped: counts what was left out, by reason.

    Raises:
        ConfigError: the library is not one of ``LIBRARIES``.
        DataError: the library is not installed; names the command that installs it.
    """
    folder = root or library_root(library)
    tally = Counter[str]() if skipped is None else skipped
    names = PublicNames(folder, package=library)
    texts: set[str] = set()
    documents: set[str] = set()
    for path in _order_files(folder, tally):
        for found in _in_file(path, folder, library, names, tally):
            if found.text in texts or found.document in documents:
                tally["duplicate text" if found.text in texts else "duplicate name"] += 1
                continue
            texts.add(found.text)
            documents.add(found.document)
            yield found
            if len(documents) == limit_documents:
                return


def demo_documents(
    libraries: Sequence[str] = LIBRARIES,
    *,
    limit_documents: int | None = 1200,
    skipped: Counter[str] | None = None,
) -> Iterator[Docstring]:
    """The docstrings of several libraries, each within the limit; a text found in two libraries comes once."""
    seen: set[str] = set()
    tally = Counter[str]() if skipped is None else skipped
    read = partial(_read_library, limit_documents=limit_documents)
    # Parsing keeps the interpreter's lock, so threads would not help. A new interpreter, since a fork of a process with
    # threads may hang.
    with ProcessPoolExecutor(
        max_workers=min(len(libraries), os.cpu_count() or 1), mp_context=get_context("spawn")
    ) as readers:
        for docstrings, left_out in readers.map(read, libraries):
            tally.update(left_out)
            for found in docstrings:
                if found.text in seen:
                    tally["also in another library"] += 1
                    continue
                seen.add(found.text)
                yield found


def _read_library(library: str, *, limit_documents: int | None) -> tuple[list[Docstring], Counter[str]]:
    skipped = Counter[str]()
    return list(iter_docstrings(library, limit_documents=limit_documents, skipped=skipped)), skipped


def library_root(library: str) -> Path:
    """Folder of an installed library's source.

    Raises:
        ConfigError: the library is not one of ``LIBRARIES``.
        DataError: it is not installed; names the command that installs it.
    """
    if library not in LIBRARIES:
        raise ConfigError(f"there are no docstrings of {library!r} in the demo{nearest(library, LIBRARIES)}")
    if library == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        name = DISTRIBUTIONS.get(library, library)
        raise DataError(f"the demo reads the docstrings of {library}, which is not installed; run `pip install {name}`")
    return Path(spec.submodule_search_locations[0])


def _order_files(folder: Path, tally: Counter[str]) -> list[Path]:
    kept = []
    for here, folders, files in os.walk(folder):
        tally["folder of tests or of another package"] += len(_SKIPPED_FOLDERS.intersection(folders))
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        for path in (Path(here, name) for name in files if name.endswith(".py")):
            if path.name.startswith(("test_", "conftest")):
                tally["file of tests"] += 1
            elif path.stat().st_size > _LONGEST_FILE:
                tally[f"file over {_LONGEST_FILE:,} bytes"] += 1
            else:
                kept.append(path)
    return sorted(kept, key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())


def _in_file(path: Path, folder: Path, library: str, names: PublicNames, tally: Counter[str]) -> Iterator[Docstring]:
    inside = PurePosixPath(path.relative_to(folder).as_posix())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        tally["file that does not parse"] += 1
        return
    module = ".".join(part for part in (*inside.parts[:-1], inside.stem) if part != "__init__")
    for node, kind, name in _find_documentable(tree):
        text = (ast.get_docstring(node) or "").strip()
        if len(text) <= _SHORTEST:
            tally["short or missing"] += 1
        else:
            qualified = names.public(module, name)
            yield Docstring(library, qualified, kind, _signature(node, kind), text, str(inside))


def _find_documentable(tree: ast.Module) -> Iterator[tuple[_Node, Kind, str]]:
    yield tree, "module", ""
    pending: list[tuple[ast.ClassDef | ast.Module, str]] = [(tree, "")]
    while pending:
        owner, prefix = pending.pop(0)
        for node in owner.body:
            if isinstance(node, ast.ClassDef):
                yield node, "class", f"{prefix}{node.name}"
                pending.append((node, f"{prefix}{node.name}."))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node, "method" if prefix else "function", f"{prefix}{node.name}"


def _signature(node: _Node, kind: Kind) -> str:
    if isinstance(node, ast.Module):
        return ""
    if isinstance(node, ast.ClassDef):
        makers = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return _signature(makers[0], "method") if makers else ""
    arguments = node.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        argument.annotation = None
    for rest in (arguments.vararg, arguments.kwarg):
        if rest is not None:
            rest.annotation = None
    first = arguments.posonlyargs or arguments.args
    has_default = len(arguments.defaults) == len(arguments.posonlyargs) + len(arguments.args)
    if kind == "method" and first and not has_default and first[0].arg in ("self", "cls", "mcs"):
        first.pop(0)
    text = f"({ast.unparse(arguments)})"
    return text if len(text) <= _LONGEST_SIGNATURE else ""
