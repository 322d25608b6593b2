"""Words: a function says what it does by a verb, or what it gives by a noun, never by a participle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gptcore", "flows")
IRREGULAR = frozenset(
    """begun bought broken brought built caught chosen done drawn driven found given gone grown held hidden kept known
    laid lost made meant met paid said seen sent shown sold spent spoken stuck struck swept taken taught thought thrown
    told torn understood won worn written""".split()  # noqa: SIM905
)
"""Participles without -ed; those that are an infinitive as well (read, cut, set, spread) are left out."""
VERBS_IN_ED = frozenset({"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "succeed"})
ALLOWED = {
    "gptcore.nn.mixing.padded": "a mask by the field's word: rows that are filled up",
    "gptcore.nn.mixing.packed": "a mask by the field's word: rows one after another",
    "gptcore.nn.mixing.cached": "the masks of cached decoding, one for each layer",
}
"""What stays, and why: factories of masks stand beside the masks `causal` and `full`, and read as they do."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_participle(name: str) -> bool:
    """Whether the first word of a name is one, as in `told`, `_drawn` and `packed_nibbles`."""
    word = name.strip("_").partition("_")[0]
    return word in IRREGULAR or (len(word) > 3 and word.endswith("ed") and word not in VERBS_IN_ED)


def is_value(function: Function) -> bool:
    """A property is read as an attribute is, so its name is a noun or what the thing is."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    """Every function below a node, private and nested ones and methods included, with dotted names."""
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, Function | ast.ClassDef)
        name = f"{prefix}.{child.name}" if isinstance(child, Function | ast.ClassDef) else prefix
        if isinstance(child, Function):
            yield name, child
        yield from functions(child, name if named else prefix)


def named_by_participles(source: str, module: str) -> list[str]:
    """The dotted names of a module's functions that no reader can tell from values."""
    return [
        name
        for name, function in functions(ast.parse(source), module)
        if is_participle(function.name) and not is_value(function)
    ]


@pytest.mark.parametrize("name", ["told", "_drawn", "packed_nibbles", "copied_sample", "trained_parameters"])
def test_a_participle_is_known_by_its_first_word(name: str) -> None:
    assert is_participle(name)


@pytest.mark.parametrize(
    "name", ["seed_step", "feed", "read_rows", "prune_hidden", "is_held", "embed", "red", "__init__"]
)
def test_verbs_and_nouns_pass(name: str) -> None:
    assert not is_participle(name)


def test_methods_and_inner_functions_are_looked_at_and_properties_are_values() -> None:
    source = """
class Run:
    @property
    def finished(self): ...
    def told(self):
        def drawn(): ...
"""
    assert named_by_participles(source, "m") == ["m.Run.told", "m.Run.told.drawn"]


def test_the_glossary_has_each_term_once() -> None:
    lines = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
    terms = [line.split("|")[1].strip() for line in lines if line.startswith("| ") and not line.startswith("| term")]
    assert len(terms) > 50
    assert sorted({term for term in terms if terms.count(term) > 1}) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_function_is_named_by_a_participle(package: str) -> None:
    found = [
        name
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in named_by_participles(
            path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).with_suffix("").parts)
        )
    ]
    kept = {name for name in ALLOWED if name.startswith(f"{package}.")}
    assert sorted(set(found) - kept) == [], "name it by a verb, or by what it gives (docs/glossary.md)"
    assert sorted(kept - set(found)) == [], "allowed, but not there"
