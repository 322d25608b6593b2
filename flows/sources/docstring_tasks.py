"""Two tasks made from docstrings: name the library of a masked one, and answer questions about names and signatures.

Everything is computed from the docstring and its signature; every row names its ``document``, so that a split can
keep all rows of one document on one side.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from flows.sources.docstrings import Docstring

NEUTRAL = "library"
"""Stands for every word that names a library and for every dotted path into one."""
FIRST_CHARS = 600
"""How much of a docstring the classification sees."""

# Anywhere inside a word: `to_numpy`, `TorchScript`, `foo.numpy.bar`.
_NAMES = re.compile(
    "numpy|pandas|scipy|scikit|sklearn|torch|matplotlib|pyplot|pylab|mplot|sqlalchemy|alembic|python", re.IGNORECASE
)
# Short enough to be ordinary words, so they count only before a dot or after "import", "from" or "as".
_ALIASES = {"np", "pd", "sp", "sk", "plt", "mpl", "sa", "nn", "F"} | sys.stdlib_module_names
_WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:-learn|-image)?(?:\.\w+)*")
_FIRST_SENTENCE = re.compile(r"(.+?(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)[.!?])(?:\s|$)", re.DOTALL)


def mask_text(docstring: Docstring, *, first_chars: int = FIRST_CHARS) -> str:
    """The beginning of a docstring without the names that would give its library away.

    Every word with a library's name inside, and every dotted path that begins with an import alias, a module of the
    standard library or the docstring's own module, becomes ``library``: the same in the docstrings of all libraries.
    At most ``first_chars`` characters, cut after masking.
    """
    own = docstring.path.removesuffix(".py").partition("/")[0]

    def mask(found: re.Match[str]) -> str:
        word = found.group()
        head, dot, _ = word.partition(".")
        named = head == own or head in _ALIASES
        imported = found.string[max(0, found.start() - 7) : found.start()].endswith(("import ", "from ", " as "))
        return NEUTRAL if _NAMES.search(word) or (named and (dot or imported)) else word

    # A masked path is shorter than it was: with four times the length there is enough left.
    return _WORD.sub(mask, docstring.text[: 4 * first_chars])[:first_chars].rstrip()


def instruction_rows(docstrings: Iterable[Docstring]) -> Iterator[dict[str, str]]:
    """Rows ``instruction``, ``input``, ``output``, ``document`` and ``form`` from public docstrings.

    Forms: ``explain`` (its first sentence), ``kind``, ``parameters``, ``required``, ``default``, ``library``. A
    docstring gives every form that it can answer.
    """
    for docstring in docstrings:
        if docstring.kind == "module" or not docstring.is_public:
            continue
        for form, instruction, context, output in _forms(docstring):
            row = {"instruction": instruction, "input": context, "output": output}
            yield {**row, "document": docstring.document, "form": form}


def first_sentence(text: str, *, longest: int = 300) -> str:
    """The first sentence of a docstring's first paragraph on one line; empty when there is none of a usable length."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    found = _FIRST_SENTENCE.match(paragraph)
    sentence = found.group(1) if found else ""
    return sentence if 20 <= len(sentence) <= longest else ""


def _forms(docstring: Docstring) -> Iterator[tuple[str, str, str, str]]:
    name, short = docstring.qualified_name, docstring.qualified_name.rpartition(".")[2]
    sentence = first_sentence(docstring.text)
    if sentence:
        yield "explain", f"Explain what `{name}` does.", "", sentence
        if docstring.kind != "class":
            yield "kind", f"Is `{short}` a function or a method?", sentence, f"`{short}` is a {docstring.kind}."
    if docstring.library != "stdlib":
        yield "library", f"Which library has `{name}`?", "", f"`{name}` is part of {docstring.library}."
    if not docstring.signature:
        return
    parameters = _parameters(docstring.signature)
    call = f"{short}{docstring.signature}"
    yield "parameters", f"What are the parameters of `{call}`?", "", _list_names([each.shown for each in parameters])
    required = [each.call for each in parameters if each.call]
    if len(required) < len(parameters):
        shortest = f"{short}({', '.join(required)})"
        yield "required", "Write the shortest call that gives every required parameter.", call, shortest
    optional = [each for each in parameters if each.default is not None]
    if optional:
        drawn = int.from_bytes(hashlib.sha256(docstring.document.encode()).digest()[:4], "big")
        asked = optional[drawn % len(optional)]
        answer = f"The default of `{asked.shown}` is {asked.default}."
        yield "default", f"What is the default of `{asked.shown}`?", call, answer


def _list_names(names: list[str]) -> str:
    if not names:
        return "It takes no parameters."
    if len(names) == 1:
        return f"It takes {names[0]}."
    return f"It takes {', '.join(names[:-1])} and {names[-1]}."


@dataclass(frozen=True)
class _Parameter:
    shown: str
    """Its name, with its stars."""
    default: str | None
    call: str
    """How the shortest call gives it; empty when it may be left out."""


def _parameters(signature: str) -> list[_Parameter]:
    function = ast.parse(f"def f{signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)  # what the line above spells
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    found = [_parameter(each.arg, default, each.arg) for each, default in zip(plain, defaults, strict=True)]
    if arguments.vararg:
        found.append(_Parameter(f"*{arguments.vararg.arg}", None, ""))
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found += [_parameter(each.arg, default, f"{each.arg}={each.arg}") for each, default in named]
    if arguments.kwarg:
        found.append(_Parameter(f"**{arguments.kwarg.arg}", None, ""))
    return found


def _parameter(name: str, default: ast.expr | None, call: str) -> _Parameter:
    return _Parameter(name, None, call) if default is None else _Parameter(name, ast.unparse(default), "")
