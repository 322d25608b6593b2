"""A byte-level BPE as ``vocab.json`` and ``merges.txt``, and back; also out of a ``tokenizer.json``.

GPT-2's files write each byte as a printable letter (openai/gpt-2, ``encoder.py``, ``bytes_to_unicode``) and list the
merges in the order in which they apply; tiktoken knows only the tokens' ranks, from which the merges follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptcore.errors import CheckpointError
from gptcore.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, byte_letters


def vocabulary_of(tokenizer: Tokenizer) -> dict[str, int]:
    """Printable token -> id, special tokens included."""
    letters = byte_letters()
    ordinary = {"".join(letters[b] for b in token): i for token, i in tokenizer.ranks.items()}
    return ordinary | tokenizer.special_tokens


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """Lines "left right" in the order of the merges."""
    letters = byte_letters()
    ordered = sorted((i, token) for token, i in tokenizer.ranks.items() if len(token) > 1)
    lines = []
    for rank, token in ordered:
        left, right = _last_merge(token, tokenizer.ranks, rank)
        lines.append(" ".join("".join(letters[b] for b in part) for part in (left, right)))
    return lines


def _last_merge(token: bytes, ranks: Mapping[bytes, int], rank: int) -> tuple[bytes, bytes]:
    """The two parts a token is made of: what is left when only lower-ranked merges are applied to its bytes."""
    parts = [bytes([b]) for b in token]
    while len(parts) > 2:
        pairs = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        best, i = min(pairs)
        if best >= rank:
            raise CheckpointError(
                f"token {token!r} (id {rank}) cannot be made by merges; it has no place in merges.txt"
            )
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]


def tokenizer_json(data: Mapping[str, Any], *, path: Path) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges out of a ``tokenizer.json``, https://huggingface.co/docs/tokenizers/api/models.

    Raises:
        CheckpointError: it is damaged, or describes another kind of tokenizer than GPT-2's byte-level BPE.
    """
    try:
        model, before = data["model"], data.get("pre_tokenizer") or {}
        kinds = (model.get("type", "BPE"), before.get("type"), bool(data.get("normalizer")))
        if kinds != ("BPE", "ByteLevel", False) or before.get("add_prefix_space"):
            raise CheckpointError(
                f"{path} describes another tokenizer than GPT-2's byte-level BPE (model {kinds[0]}, pre-tokenizer "
                f"{kinds[1]}); only that can be run"
            )
        special = {token["content"]: int(token["id"]) for token in data.get("added_tokens", ())}
        # versions of the format differ: ["a", "b"] or "a b"
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        return {**model["vocab"], **special}, merges
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as a tokenizer ({type(error).__name__}: {error})") from error


def tokenizer_of(name: str, *, vocabulary: Mapping[str, int], merges: Sequence[str]) -> Tokenizer:
    """The tokenizer that ``vocab.json`` and ``merges.txt`` describe, with GPT-2's split into words.

    Raises:
        CheckpointError: a merge's token is not in the vocabulary, or the ids do not follow the order of the merges.
    """
    to_byte = {letter: byte for byte, letter in byte_letters().items()}
    made = [merge.replace(" ", "") for merge in merges]
    missing = [token for token in made if token not in vocabulary]
    if missing:
        raise CheckpointError(f"merges.txt makes {missing[0]!r}, which vocab.json does not have")
    ids = [vocabulary[token] for token in made]
    if ids != sorted(ids):
        raise CheckpointError("the ids in vocab.json do not follow the order of merges.txt; tiktoken cannot run it")
    ordinary = {*made, *to_byte}
    ranks = {bytes(to_byte[c] for c in token): i for token, i in vocabulary.items() if token in ordinary}
    special = {token: i for token, i in vocabulary.items() if token not in ordinary}
    if END_OF_TEXT not in special:
        raise CheckpointError(f"vocab.json has no {END_OF_TEXT}")
    return Tokenizer(name, pattern=GPT2_PATTERN, ranks=ranks, special_tokens=special)
