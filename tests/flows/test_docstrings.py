"""The demo's corpus: read without importing, the same on every machine, with the library's name out of sight."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flows.sources.docstring_tasks import first_sentence, instruction_rows, mask_text
from flows.sources.docstrings import Docstring, demo_documents, iter_docstrings, library_root
from gptcore.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
LONG = "It goes on for long enough to be counted among the docstrings that are worth reading."
MERGE = f'''"""Merge the parts of a toy library. {LONG}"""
raise RuntimeError("imported")

class Frame:
    """Hold a table of toys. {LONG}"""

    def __init__(self, rows: list[int], *, copy: bool = False) -> None:
        "short"

    def merge(self, right: "Frame", how: str = "inner", *rest, key=None, **options) -> "Frame":
        """
        Merge two frames of toys.

        {LONG}
        """

def _hidden(a):
    """Work behind the scenes. {LONG}"""
'''


@pytest.fixture
def toys(tmp_path: Path) -> Path:
    root = tmp_path / "toys"
    (root / "core").mkdir(parents=True)
    (root / "tests").mkdir()
    (root / "__init__.py").write_text("from toys.api import Frame\n")
    (root / "api.py").write_text("from .core._frame import Frame\n")
    (root / "core" / "__init__.py").write_text("")
    (root / "core" / "_frame.py").write_text(MERGE)
    (root / "core" / "copied.py").write_text(MERGE.replace("class Frame", "class Copy"))
    (root / "core" / "broken.py").write_text("def broken(:\n")
    (root / "tests" / "helper.py").write_text(MERGE)
    (root / "test_toys.py").write_text(MERGE)
    return root


def described(text: str, *, path: str = "core/frame.py", signature: str = "", kind: str = "function") -> Docstring:
    assert kind in ("function", "class", "method")
    return Docstring("pandas", "pandas.merge", "function" if kind == "function" else "class", signature, text, path)


def test_docstrings_are_found_with_public_names_kinds_and_signatures(toys: Path) -> None:
    skipped: Counter[str] = Counter()
    found = {each.qualified_name: each for each in iter_docstrings("toys", root=toys, skipped=skipped)}
    kinds = Counter(each.kind for each in found.values())
    assert kinds == {"module": 1, "class": 1, "method": 1, "function": 1}
    assert skipped["duplicate text"] == 4
    assert skipped["short or missing"] == 5
    assert skipped["file that does not parse"] == 1
    assert skipped["file of tests"] == skipped["folder of tests or of another package"] == 1
    method = next(each for each in found.values() if each.kind == "method")
    assert method.signature == "(right, how='inner', *rest, key=None, **options)"
    assert method.text == f"Merge two frames of toys.\n\n{LONG}"
    assert method.page.startswith(f"method {method.qualified_name}(right, how=")
    owner = next(each for each in found.values() if each.kind == "class")
    assert owner.signature == "(rows, *, copy=False)"
    hidden = next(each for each in found.values() if each.kind == "function")
    assert not hidden.is_public


def test_a_name_that_the_package_exports_is_called_as_its_users_call_it(toys: Path) -> None:
    (toys / "core" / "copied.py").unlink()
    names = [each.qualified_name for each in iter_docstrings("toys", root=toys)]
    assert "toys.Frame.merge" in names
    assert "toys.Frame" in names
    assert "toys.core._hidden" in names, "a private file is left out of the name, a private function is not"


def test_limits_stop_the_reading_and_the_order_is_fixed(toys: Path) -> None:
    whole = [each.document for each in iter_docstrings("toys", root=toys)]
    assert [each.document for each in iter_docstrings("toys", root=toys, limit_documents=2)] == whole[:2]
    assert whole == [each.document for each in iter_docstrings("toys", root=toys)]


def test_real_libraries_are_read_without_importing_them() -> None:
    code = (
        "import sys; from flows.sources.docstrings import demo_documents;"
        "found = list(demo_documents(('pandas', 'sqlalchemy', 'stdlib'), limit_documents=40));"
        "print(len(found), len({each.text for each in found}), 'pandas' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["120", "120", "False", "False"]


def test_the_documents_of_several_libraries_are_distinct_and_long_enough() -> None:
    skipped: Counter[str] = Counter()
    found = list(demo_documents(("numpy", "sklearn"), limit_documents=60, skipped=skipped))
    assert Counter(each.library for each in found) == {"numpy": 60, "sklearn": 60}
    assert len({each.document for each in found}) == 120
    assert all(len(each.text) > 80 for each in found)
    assert skipped["short or missing"] > 0


def test_an_unknown_library_is_refused_and_a_missing_one_tells_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no docstrings of 'panda' in the demo; did you mean 'pandas'"):
        library_root("panda")
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(
        DataError, match=r"docstrings of sklearn, which is not installed; run `pip install scikit-learn`"
    ):
        list(iter_docstrings("sklearn"))


def test_masking_hides_names_aliases_and_module_paths_and_keeps_the_rest() -> None:
    text = "\n".join(
        [
            "Like numpy.linalg.norm, PyTorch's Tensor or `pd.DataFrame.to_numpy`; see scikit-learn and SciPy 1.2.",
            ">>> import numpy as np, os",
            ">>> from sqlalchemy.orm import Session",
            ">>> x = np.zeros(3); os.path.join(x.F); core.frame.merge(x)",
            "The op as F of x, a core idea.",
        ]
    )
    assert mask_text(described(text)).splitlines() == [
        "Like library, library's Tensor or `library`; see library and library 1.2.",
        ">>> import library as library, os",
        ">>> from library import Session",
        ">>> x = library(3); library(x.F); library(x)",
        "The op as library of x, a core idea.",
    ]


def test_masked_text_is_cut_after_masking() -> None:
    masked = mask_text(described("numpy.random.Generator " * 100), first_chars=40)
    assert masked == "library library library library library"
    assert len(mask_text(described("word " * 500))) == 599


def test_no_real_document_shows_its_librarys_name_after_masking() -> None:
    for each in demo_documents(("numpy", "torch", "matplotlib"), limit_documents=80):
        assert each.library not in mask_text(each).lower()


def test_instruction_rows_answer_from_docstring_and_signature() -> None:
    signature = "(left, right=None, *rest, how='inner', **options)"
    rows = {
        row["form"]: row
        for row in instruction_rows([described(f"Merge two things by their keys.\n\n{LONG}", signature=signature)])
    }
    assert set(rows) == {"explain", "kind", "library", "parameters", "required", "default"}
    assert {row["document"] for row in rows.values()} == {"pandas:pandas.merge"}
    assert rows["explain"]["instruction"] == "Explain what `pandas.merge` does."
    assert rows["explain"]["output"] == "Merge two things by their keys."
    assert rows["kind"]["output"] == "`merge` is a function."
    assert rows["library"]["output"] == "`pandas.merge` is part of pandas."
    assert rows["parameters"]["instruction"] == f"What are the parameters of `merge{signature}`?"
    assert rows["parameters"]["output"] == "It takes left, right, *rest, how and **options."
    assert (rows["required"]["input"], rows["required"]["output"]) == (f"merge{signature}", "merge(left)")
    assert rows["default"]["output"] in {"The default of `right` is None.", "The default of `how` is 'inner'."}


def test_required_keyword_parameters_are_given_by_name_and_no_parameters_are_said_so() -> None:
    rows = {row["form"]: row["output"] for row in instruction_rows([described(LONG, signature="(a, *, key, n=1)")])}
    assert rows["required"] == "merge(a, key=key)"
    bare = {row["form"]: row["output"] for row in instruction_rows([described(LONG, signature="()")])}
    assert bare["parameters"] == "It takes no parameters."
    assert "required" not in bare


def test_the_first_sentence_is_one_line_of_a_usable_length() -> None:
    assert first_sentence("Return the value\nof e.g. this thing. And more.") == "Return the value of e.g. this thing."
    assert first_sentence("Short.") == ""
    assert first_sentence("No full stop in the first paragraph\n\nbut here. Yes.") == ""
