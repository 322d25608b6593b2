"""The demo: the documentation inside the installed packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from flows.sources.base import Places, Row, SourceConfig, SourceEstimate
from flows.sources.docstring_tasks import instruction_rows, mask_text
from flows.sources.docstrings import DISTRIBUTIONS, LIBRARIES, Docstring, demo_documents
from flows.sources.parts import CLASSIFY, INSTRUCT, Part
from gptcore.data import Document, near_duplicate_groups
from gptcore.data.ledger import Ledger


@dataclass(frozen=True)
class Demo(SourceConfig):
    """The documentation inside the installed packages, read without importing them."""

    docstrings_per_library: int = 1200
    """Docstrings read from each library, in a fixed pseudo-random order of its files."""
    instruction_rows: int = 6000
    """Instruction rows, a fixed pseudo-random choice among all that the docstrings answer."""

    def digests(self, places: Places) -> dict[str, str]:
        """The versions of the libraries: the same versions hold the same docstrings."""
        del places
        installed = {library: DISTRIBUTIONS.get(library, library) for library in LIBRARIES if library != "stdlib"}
        versions = {library: importlib.metadata.version(name) for library, name in installed.items()}
        return {**versions, "stdlib": platform.python_version()}

    def estimate(self, places: Places) -> SourceEstimate:
        """From averages over the eight libraries, and the time that parsing took on one core."""
        del places
        n = len(LIBRARIES) * self.docstrings_per_library
        asked = min(self.instruction_rows, 4 * n)
        row_chars = {"classify": 400 * n, "instruct": 120 * asked}
        return SourceEstimate(1000 * n, {"classify": n, "instruct": asked}, row_chars, seconds=0.0025 * n)

    def documents(self, places: Places, ledger: Ledger) -> Iterator[Document]:
        """One page per docstring."""
        del places
        docstrings, skipped = self._read
        ledger.count("read", "in", n=len(docstrings) + skipped.total(), unit="places")
        ledger.count("read", "kept", n=len(docstrings), unit="places")
        for reason, n in sorted(skipped.items()):
            ledger.count("read", "dropped", n=n, reason=reason, unit="places")
        for docstring in docstrings:
            yield Document(docstring.page, self._groups[docstring.document])

    def rows(self, part: Part, places: Places) -> Iterator[Row] | None:
        """Which library a docstring comes from; questions that it answers."""
        del places
        made = {CLASSIFY: self._classify_rows, INSTRUCT: self._instruct_rows}.get(part)
        return made() if made else None

    def _classify_rows(self) -> Iterator[Row]:
        """Which library a docstring comes from, its names masked."""
        for docstring in self._read[0]:
            document = self._groups[docstring.document]
            yield {"text": mask_text(docstring), "label": docstring.library, "document": document}

    def _instruct_rows(self) -> Iterator[Row]:
        """Questions that a docstring or a signature answers."""
        asked = instruction_rows(self._read[0])
        rows = sorted(asked, key=lambda row: hashlib.sha256(row["instruction"].encode()).digest())
        for row in rows[: self.instruction_rows]:
            columns = {key: row[key] for key in ("instruction", "input", "output")}
            yield {**columns, "document": self._groups[row["document"]]}

    @cached_property
    def _read(self) -> tuple[list[Docstring], Counter[str]]:
        """A few megabytes, read once for all three streams; and what was left out, by reason."""
        skipped: Counter[str] = Counter()
        return list(demo_documents(limit_documents=self.docstrings_per_library, skipped=skipped)), skipped

    @cached_property
    def _groups(self) -> dict[str, str]:
        """Document -> the first document whose docstring is nearly the same: the two go into the same split."""
        documents = [docstring.document for docstring in self._read[0]]
        groups = near_duplicate_groups(docstring.text for docstring in self._read[0])
        return {document: documents[first] for document, first in zip(documents, groups, strict=True)}
