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
from gptcore.data import read_texts
from gptcore.files import read_json_lines, write_json_lines
from gptcore.tokenizer import Tokenizer

TEXT_CHARS = 4096
"""Characters that are read of a held-out text."""
_IDENTITY = {"answers": ("instruction", "input"), "classes": ("text",), "texts": ("text",)}
"""What makes an item known to a model that was trained on it."""
_PARTS = {"answers": "instruct", "classes": "classify"}


@dataclass(frozen=True)
class EvaluationSet:
    """Items by kind, each with an ``id`` that its content decides."""

    answers: tuple[dict[str, str], ...]
    """``instruction``, ``input``, ``output``."""
    classes: tuple[dict[str, str], ...]
    """``text``, ``label``."""
    texts: tuple[dict[str, str], ...]
    """``text``."""
    left_out: dict[str, int]
    """Kind -> items that the champion was trained on."""

    @property
    def digest(self) -> str:
        """Of all items."""
        return digest({"answers": self.answers, "classes": self.classes, "texts": self.texts})

    def sizes(self) -> dict[str, int]:
        """Kind -> items."""
        return {"answers": len(self.answers), "classes": len(self.classes), "texts": len(self.texts)}

    def save(self, folder: Path) -> None:
        """Write one file per kind."""
        for kind in self.sizes():
            write_json_lines(folder / f"{kind}.jsonl", getattr(self, kind))


def evaluation_set(prepared: Path, *, champion: Path | None, max_items: int) -> EvaluationSet:
    """The items of a challenger.

    Args:
        prepared: output of the challenger's ``prepare-data``.
        champion: that of the champion; None if there is none, or it is the same data.
        max_items: the most of each kind; a choice that the contents alone decide.
    """
    kinds: dict[str, tuple[dict[str, str], ...]] = {}
    left_out: dict[str, int] = {}
    for kind, identity in _IDENTITY.items():
        known = set() if champion is None else {_identity(item, identity) for item in _trained_on(champion, kind)}
        items = {_identity(item, tuple(item)): item for item in _held_out(prepared, kind)}
        fresh = {name: item for name, item in items.items() if _identity(item, identity) not in known}
        left_out[kind] = len(items) - len(fresh)
        kinds[kind] = tuple({"id": name, **fresh[name]} for name in sorted(fresh)[:max_items])
    return EvaluationSet(**kinds, left_out=left_out)


def _held_out(prepared: Path, kind: str) -> Iterator[dict[str, str]]:
    if kind == "texts":
        return _texts(prepared, "val")
    return _rows(prepared, kind, "test")


def _trained_on(prepared: Path, kind: str) -> Iterator[dict[str, str]]:
    """What a model was trained on, and what chose among its states."""
    for split in ("train", "val") if kind != "texts" else ("train",):
        yield from _texts(prepared, split) if kind == "texts" else _rows(prepared, kind, split)


def _rows(prepared: Path, kind: str, split: str) -> Iterator[dict[str, str]]:
    path = prepared / _PARTS[kind] / f"{split}.jsonl"
    return iter(read_json_lines(path) if path.is_file() else ())


def _texts(prepared: Path, split: str) -> Iterator[dict[str, str]]:
    tokenizer = Tokenizer.load(prepared / "tokenizer")
    for text in read_texts(prepared / "corpus" / split, tokenizer=tokenizer):
        if text.strip():
            yield {"text": text[:TEXT_CHARS]}


def _identity(item: Mapping[str, Any], keys: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(str(item.get(key, "")) for key in keys).encode()).hexdigest()[:16]
