"""A tokenizer in GGUF's fields, and back: llama.cpp's ``gpt2`` model of byte-level BPE (``src/llama-vocab.cpp``)."""

from __future__ import annotations

from typing import Any, Final

from gguf import GGUFWriter
from gguf.constants import TokenType
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from gptcore.errors import CheckpointError, ConfigError
from gptcore.export.gguf_file import GGUFFile
from gptcore.export.vocabulary import merges_of, tokenizer_of, vocabulary_of
from gptcore.tokenizer import GPT2_PATTERN, Tokenizer

PRE_TOKENIZER: Final = "gpt-2"
"""llama.cpp's name of GPT-2's split into words. Without it llama.cpp only warns and splits in another way."""
_PREFIX: Final = "tokenizer.ggml"
PROBES: Final = (
    "The keeper's 1,234 ships; they'll sail, he'd said -- wouldn't they?",
    "  two  blanks,\ttabs\n\n\nand   trailing ones   ",
    "naïve façade, 東京タワー, Привет мир, مرحبا, 🙂👩‍🚀, é́",
    "<|endoftext|> def f(x): return x**2 # 3.14159 \r\n\u00a0\u2003end",
)
"""Texts on which two implementations of a tokenizer are compared."""


def write_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, *, vocab_size: int, end: int) -> None:
    """Write the tokens, the merges and what stands at the end of an answer.

    Args:
        writer: its header is not written yet.
        tokenizer: the model's.
        vocab_size: rows of the model's embedding; rows without a token are written as unused ones.
        end: id of the token that ends an answer.

    Raises:
        ConfigError: the tokenizer splits words in another way than GPT-2, which llama.cpp could not follow.
    """
    if tokenizer.pattern != GPT2_PATTERN:
        raise ConfigError(
            f"tokenizer {tokenizer.name!r} splits text by {tokenizer.pattern!r}; GGUF can only name GPT-2's pattern, "
            "and with another one llama.cpp would read other tokens than the model was trained on"
        )
    by_id = {i: token for token, i in vocabulary_of(tokenizer).items()}
    special = set(tokenizer.special_tokens.values())
    names, kinds = [], []
    for i in range(vocab_size):
        names.append(by_id.get(i, f"[PAD{i}]"))
        kinds.append(TokenType.CONTROL if i in special else TokenType.NORMAL if i in by_id else TokenType.UNUSED)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges_of(tokenizer))
    writer.add_bos_token_id(tokenizer.end_of_text)  # absent, llama.cpp takes id 11 for both
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def read_tokenizer(file: GGUFFile, *, name: str) -> Tokenizer:
    """The tokenizer in a file's fields.

    Raises:
        CheckpointError: it is of another kind, or damaged.
    """
    kind, pre = (file.fields.get(f"{_PREFIX}.{key}") for key in ("model", "pre"))
    if (kind, pre) != ("gpt2", PRE_TOKENIZER):
        raise CheckpointError(
            f"{name} has a tokenizer of kind {kind!r}, split by {pre!r}; only 'gpt2', split by {PRE_TOKENIZER!r}, "
            "can be run"
        )
    tokens, kinds, merges = _lists(file, name)
    known = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != TokenType.UNUSED}
    return tokenizer_of(name, vocabulary=known, merges=merges)


def check_tokenizer(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """Hold the file's tokens against the tokenizer by what the library ``tokenizers`` makes of them.

    Raises:
        CheckpointError: a probe gives other ids, or a special token has another id.
    """
    tokens, kinds, merges = _lists(file, "the file")
    vocabulary = {token: i for i, token in enumerate(tokens)}
    theirs = HFTokenizer(models.BPE(vocab=vocabulary, merges=[_pair(merge) for merge in merges]))
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    theirs.decoder = decoders.ByteLevel()
    for probe in PROBES:
        found, ours = theirs.encode(probe).ids, tokenizer.encode(probe)
        if found != ours or theirs.decode(found) != tokenizer.decode(ours):
            raise CheckpointError(f"the written tokens give {found[:8]}… for {probe[:20]!r}, the tokenizer {ours[:8]}…")
    special = {token: i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == TokenType.CONTROL}
    if special != tokenizer.special_tokens:
        raise CheckpointError(f"the written special tokens are {special}, the tokenizer's {tokenizer.special_tokens}")
    theirs.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if theirs.encode("".join(special)).ids != list(special.values()):
        raise CheckpointError(f"the special tokens {list(special)} cannot be distinguished in a text")


def _lists(file: GGUFFile, name: str) -> tuple[list[str], list[int], list[str]]:
    found: list[Any] = [file.fields.get(f"{_PREFIX}.{key}") for key in ("tokens", "token_type", "merges")]
    tokens, kinds, merges = found
    for what, value, kind in (("tokens", tokens, str), ("token_type", kinds, int), ("merges", merges, str)):
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            raise CheckpointError(f"{name} has no usable {_PREFIX}.{what}")
    if len(tokens) != len(kinds) or not all(merge.count(" ") == 1 for merge in merges):
        raise CheckpointError(f"{name}: tokens, their types and the merges do not fit each other")
    return tokens, kinds, merges


def _pair(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    return left, right
