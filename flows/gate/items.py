"""The items on which two models are compared: the challenger's held-out data, less what the champion knows.

The split of a row or text is decided by its content, so what was held out once stays held out, and what was added
later neither has seen. Where settings were changed that move the split, the champion may have been trained on an item:
such items are left out, and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.digest import digest
from flows.sources.parts import list_parts
from gptcore.data import read_texts
from gptcore.files import read_json_lines, write_json_lines
from gptcore.tokenizer import Tokenizer

TEXT_CHARS = 4096
"""Characters that are read of a held-out text."""
Items = tuple[dict[str, str], ...]
_TEXTS = "texts"


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out texts, and held-out rows of each part of the data, each with an ``id`` that its content decides."""

    items: dict[str, Items]
    """``texts`` and the names of the parts -> their items: ``text``, or the keys of the part."""
    left_out: dict[str, int]
    """The same -> items that the champion was trained on."""

    @property
    def texts(self) -> Items:
        """The texts."""
        return self.items[_TEXTS]

    def rows(self, part: str) -> Items:
        """The rows of a part; none where it was not registered when the items were chosen."""
        return self.items.get(part, ())

    @property
    def digest(self) -> str:
        """Of all items."""
        return digest(self.items)

    def sizes(self) -> dict[str, int]:
        """``texts`` and parts -> how many items."""
        return {kind: len(items) for kind, items in self.items.items()}

    def save(self, folder: Path) -> None:
        """Write one file for the texts and one for each part."""
        for kind, items in self.items.items():
            write_json_lines(folder / f"{kind}.jsonl", items)


def evaluation_set(prepared: Path, *, champion: Path | None, max_items: int) -> EvaluationSet:
    """The items of a challenger whose ``prepare-data`` is ``prepared``: of each kind ``max_items`` at most.

    Which, the contents alone decide. ``champion`` is its ``prepare-data``; None if there is none, or the same data.
    """
    kinds: dict[str, Items] = {}
    left_out: dict[str, int] = {}
    # what makes an item known to a model that was trained on it
    for kind, identity in {_TEXTS: ("text",), **{part.name: part.identity for part in list_parts()}}.items():
        # what a model was trained on, and what chose among its states
        held_out, trained_on = ("val", ("train",)) if kind == _TEXTS else ("test", ("train", "val"))
        known = {_identity(item, identity) for split in trained_on if champion for item in _read(champion, kind, split)}
        items = {_identity(item, tuple(item)): item for item in _read(prepared, kind, held_out)}
        fresh = {name: item for name, item in items.items() if _identity(item, identity) not in known}
        left_out[kind] = len(items) - len(fresh)
        kinds[kind] = tuple({"id": name, **fresh[name]} for name in sorted(fresh)[:max_items])
    return EvaluationSet(kinds, left_out)


def _read(prepared: Path, kind: str, split: str) -> Iterator[dict[str, str]]:
    if kind != _TEXTS:
        path = prepared / kind / f"{split}.jsonl"
        yield from read_json_lines(path) if path.is_file() else ()
        return
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    for text in read_texts(prepared / "corpus" / split, tokenizer=tokenizer):
        if text.strip():
            yield {"text": text[:TEXT_CHARS]}


def _identity(item: Mapping[str, Any], keys: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(str(item.get(key, "")) for key in keys).encode()).hexdigest()[:16]
