"""Tokenizer: byte-level BPE through tiktoken, identified by a digest.

One class serves GPT-2's vocabulary and one trained on the corpus. Text is always ordinary text: a document that
contains the characters ``<|endoftext|>`` cannot forge the end of a document. Training follows Sennrich et al. (2016),
https://arxiv.org/abs/1508.07909, on bytes as in GPT-2,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf; the merges
are found by the library ``tokenizers`` and run by ``tiktoken``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers, trainers

from gptcore.config import canonical_json
from gptcore.errors import ConfigError, DataError
from gptcore.files import write_json, write_text

END_OF_TEXT = "<|endoftext|>"
"""The special token that ends every document and every response."""

GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
"""GPT-2's split into words, in the possessive form that tiktoken uses (no backtracking on long runs)."""

_GPT2_URL = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
_SETTINGS, _RANKS = "tokenizer.json", "vocab.tiktoken"


class Tokenizer:
    """Text to token ids and back.

    Args:
        name: shown in messages; it is not part of the identity.
        pattern: regular expression that splits text into words before merging.
        ranks: token bytes -> id; a lower id is merged earlier; all 256 single bytes are in it.
        special_tokens: name -> id of tokens that never come from ordinary text; has ``<|endoftext|>``.

    Raises:
        DataError: a byte or ``<|endoftext|>`` is missing, or the ids are not 0 .. n-1.
    """

    def __init__(
        self, name: str, *, pattern: str, ranks: Mapping[bytes, int], special_tokens: Mapping[str, int]
    ) -> None:
        _check_ids(name, ranks, special_tokens)
        self.name = name
        self.special_tokens = dict(special_tokens)
        self.end_of_text = self.special_tokens[END_OF_TEXT]
        self._pattern = pattern
        self._ranks = dict(ranks)
        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=self._ranks, special_tokens=self.special_tokens
        )
        self.digest = _digest(pattern, self._ranks, self.special_tokens)

    @property
    def vocab_size(self) -> int:
        """Number of tokens; every id is below it."""
        return self._encoding.n_vocab

    @property
    def limits(self) -> Mapping[str, int]:
        """``vocab_size``: a network must have as many rows of embedding."""
        return {"vocab_size": self.vocab_size}

    @property
    def pattern(self) -> str:
        """Regular expression that splits text into words before merging."""
        return self._pattern

    @property
    def ranks(self) -> Mapping[bytes, int]:
        """Token bytes -> id, without the special tokens."""
        return self._ranks

    def extends(self, other: Tokenizer) -> bool:
        """Whether this is ``other`` with nothing but further special tokens: all of its ids keep their meaning."""
        same = self._pattern == other._pattern and self._ranks == other._ranks
        return same and other.special_tokens.items() <= self.special_tokens.items()

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, all of it ordinary: the characters of a special token give ordinary tokens."""
        return self._encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        return self._encoding.encode_ordinary_batch(list(texts), num_threads=os.cpu_count() or 1)

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of ``text`` with this tokenizer's own special tokens recognised. For templates, never for user text."""
        return self._encoding.encode(text, allowed_special="all", disallowed_special=())

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 (a cut character) become U+FFFD.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        for i in ids:
            self._check_id(i)
        return self._encoding.decode(list(ids), errors="replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token, which may end inside a character.

        Raises:
            DataError: the id is outside the vocabulary.
        """
        self._check_id(token)
        return self._encoding.decode_single_token_bytes(token)

    def _check_id(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise DataError(f"token id {token} is outside tokenizer {self.name!r} (ids 0 to {self.vocab_size - 1})")

    def with_special_tokens(self, names: Sequence[str]) -> Tokenizer:
        """A tokenizer that also knows ``names``, new ids appended in the given order; this one if all are known."""
        new = [name for name in dict.fromkeys(names) if name not in self.special_tokens]
        if not new:
            return self
        special = {**self.special_tokens, **{name: self.vocab_size + i for i, name in enumerate(new)}}
        return Tokenizer(self.name, pattern=self._pattern, ranks=self._ranks, special_tokens=special)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json`` and ``vocab.tiktoken`` into ``folder`` (made if missing), each whole or not at all.

        Raises:
            OutOfDiskError: the disk is full.
        """
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in _by_rank(self._ranks))
        settings = {
            "format": 1,
            "name": self.name,
            "pattern": self._pattern,
            "special_tokens": self.special_tokens,
            "digest": self.digest,
        }
        write_text(folder / _RANKS, "".join(lines))
        write_json(folder / _SETTINGS, settings)

    @staticmethod
    def load(folder: Path) -> Tokenizer:
        """Read a folder written by ``save``.

        Raises:
            DataError: a file is missing or unreadable, or the content does not give the digest that was saved.
        """
        settings = _read_settings(folder / _SETTINGS)
        ranks = _read_ranks(folder / _RANKS)
        found = _digest(settings["pattern"], ranks, settings["special_tokens"])
        if found != settings["digest"]:
            raise DataError(
                f"tokenizer {folder} is damaged: {_RANKS} and {_SETTINGS} give digest {found[:12]}, saved was "
                f"{str(settings['digest'])[:12]}; make the folder again or copy it anew"
            )
        return Tokenizer(
            settings["name"], pattern=settings["pattern"], ranks=ranks, special_tokens=settings["special_tokens"]
        )


def gpt2_tokenizer() -> Tokenizer:
    """GPT-2's 50,257 tokens, from tiktoken's cache or, once, from the network.

    Raises:
        DataError: the two vocabulary files are neither cached nor can be downloaded, or have a wrong hash.
    """
    try:
        encoding = tiktoken.get_encoding("gpt2")
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
        raise DataError(
            f"GPT-2's tokenizer needs vocab.bpe and encoder.json: neither cached in {folder or 'the temporary folder'} "
            f"nor downloadable from {_GPT2_URL} ({type(error).__name__}: {str(error)[:200]}). Connect once, or set "
            "TIKTOKEN_CACHE_DIR to a folder that holds them under tiktoken's names (the sha1 of each url), "
            "or train a tokenizer on the corpus"
        ) from error
    return Tokenizer(
        "gpt2",
        pattern=encoding._pat_str,
        ranks=encoding._mergeable_ranks,
        special_tokens=encoding._special_tokens,
    )


def train_bpe(texts: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most ``vocab_size`` tokens: 256 bytes, the merges, ``<|endoftext|>``.

    The same texts give the same tokenizer. Memory grows with the number of distinct words, not with the texts. A small
    corpus may give fewer tokens.

    Raises:
        ConfigError: ``vocab_size`` is below 257.
        DataError: there is no text.
    """
    if vocab_size < 257:
        raise ConfigError(f"vocab_size {vocab_size} is too small: 256 bytes and {END_OF_TEXT} need at least 257")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        special_tokens=[],
    )
    model = HFTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    counted = _Counted(texts)
    model.train_from_iterator(counted, trainer=trainer)
    if not counted.n_characters:
        raise DataError("no text to train a tokenizer on: every document is empty or there is none")
    ranks = _ranks_of(model.get_vocab(with_added_tokens=False))
    return Tokenizer(
        f"bpe-{len(ranks) + 1}", pattern=GPT2_PATTERN, ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )


class _Counted:
    """The texts, and how many characters went by: the trainer itself does not say that it saw nothing."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = iter(texts)
        self.n_characters = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        text = next(self._texts)
        self.n_characters += len(text)
        return text


def _ranks_of(vocabulary: Mapping[str, int]) -> dict[bytes, int]:
    """Bytes first (id = byte value), then the merged tokens in the order in which they were learned."""
    to_byte = {letter: byte for byte, letter in byte_letters().items()}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for token, _ in sorted(vocabulary.items(), key=lambda item: item[1]):
        ranks.setdefault(bytes(to_byte[letter] for letter in token), len(ranks))
    return ranks


def byte_letters() -> dict[int, str]:
    """The printable letter that GPT-2's vocabulary files write for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def _check_ids(name: str, ranks: Mapping[bytes, int], special_tokens: Mapping[str, int]) -> None:
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DataError(f"tokenizer {name!r} lacks the single byte 0x{missing[0]:02x}; it could not encode every text")
    if END_OF_TEXT not in special_tokens:
        raise DataError(f"tokenizer {name!r} has no special token {END_OF_TEXT}")
    ids = sorted([*ranks.values(), *special_tokens.values()])
    if ids != list(range(len(ids))):
        raise DataError(f"tokenizer {name!r}: its {len(ids)} tokens must have the ids 0 to {len(ids) - 1}, each once")


def _by_rank(ranks: Mapping[bytes, int]) -> list[tuple[bytes, int]]:
    return sorted(ranks.items(), key=lambda item: item[1])


def _digest(pattern: str, ranks: Mapping[bytes, int], special_tokens: Mapping[str, int]) -> str:
    digest = hashlib.sha256(canonical_json({"pattern": pattern, "special_tokens": dict(special_tokens)}).encode())
    for token, rank in _by_rank(ranks):
        digest.update(b"%d:%d:%s" % (rank, len(token), token))
    return digest.hexdigest()


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(settings["name"], str) and isinstance(settings["pattern"], str)
        ids = settings["special_tokens"].values()
        if whole and isinstance(settings["digest"], str) and all(type(i) is int for i in ids):
            return dict(settings)
        reason = "a field has the wrong type"
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: {path.parent} is not a tokenizer folder") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise DataError(f"{path} cannot be read as a tokenizer's settings ({reason}); make the tokenizer again")


def _read_ranks(path: Path) -> dict[bytes, int]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); make the tokenizer again") from error
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DataError(f"{path}, line {number}: not a base64 token and its rank ({error})") from error
    return ranks
