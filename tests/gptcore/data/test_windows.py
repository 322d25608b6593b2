"""Windows over token shards: every token is a target once, whatever the shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gptcore.data.corpus import open_shards, write_shards
from gptcore.data.windows import TokenWindows
from gptcore.errors import ConfigError, DataError
from gptcore.tokenizer import train_bpe

TEXT = "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer the slings and arrows. "
TOKENIZER = train_bpe([TEXT], vocab_size=270)
N_TOKENS = len(TOKENIZER.encode(TEXT)) + 1


@pytest.mark.parametrize("shard_tokens", [2, 5, 13, 1 << 20])
@pytest.mark.parametrize("context_length", [1, 4, 7, N_TOKENS - 1])
def test_windows_tile_the_corpus_across_shards(tmp_path: Path, shard_tokens: int, context_length: int) -> None:
    write_shards([TEXT], tokenizer=TOKENIZER, folder=tmp_path / "s", shard_tokens=shard_tokens)
    source = TokenWindows(folder=tmp_path / "s", context_length=context_length).open()
    everything = [*TOKENIZER.encode(TEXT), TOKENIZER.end_of_text]
    batch = source.batch(range(source.n_samples))
    n = source.n_samples * context_length
    assert source.n_samples == (N_TOKENS - 1) // context_length
    assert batch.inputs["tokens"].shape == (source.n_samples, context_length)
    assert batch.inputs["tokens"].flatten().tolist() == everything[:n]
    assert batch.targets["labels"].flatten().tolist() == everything[1 : n + 1]
    assert (batch.n_tokens, batch.inputs["tokens"].dtype.is_floating_point) == (n, False)


def test_the_source_knows_its_tokenizer_and_its_bytes(tmp_path: Path) -> None:
    write_shards([TEXT, "é"], tokenizer=TOKENIZER, folder=tmp_path / "s")
    source = TokenWindows(folder=tmp_path / "s", context_length=8).open()
    assert (source.tokenizer_digest, source.limits["vocab_size"]) == (TOKENIZER.digest, TOKENIZER.vocab_size)
    assert source.text_size == (N_TOKENS + 3, len(TEXT) + 2)
    assert source.fingerprint == open_shards(tmp_path / "s").fingerprint
    assert source.context_length == 8


def test_the_order_is_a_seeded_permutation_whatever_the_batch_size(tmp_path: Path) -> None:
    write_shards([TEXT], tokenizer=TOKENIZER, folder=tmp_path / "s")
    source = TokenWindows(folder=tmp_path / "s", context_length=2).open()
    first = source.order(epoch=0, seed=1, batch_size=4)
    assert sorted(first) == list(range(source.n_samples))
    assert np.array_equal(first, source.order(epoch=0, seed=1, batch_size=32))
    assert not np.array_equal(first, source.order(epoch=1, seed=1, batch_size=4))
    assert not np.array_equal(first, source.order(epoch=0, seed=2, batch_size=4))


def test_texts_shorter_than_the_context_are_refused_with_the_figures(tmp_path: Path) -> None:
    write_shards([TEXT], tokenizer=TOKENIZER, folder=tmp_path / "s")
    message = rf"shorter than the context: 1 documents give {N_TOKENS} tokens, one window needs 1,025; .*context_length"
    with pytest.raises(DataError, match=message):
        TokenWindows(folder=tmp_path / "s", context_length=1024).open()


def test_a_context_of_nothing_is_refused(tmp_path: Path) -> None:
    write_shards([TEXT], tokenizer=TOKENIZER, folder=tmp_path / "s")
    with pytest.raises(ConfigError, match="expected context_length to be at least 1, got 0"):
        TokenWindows(folder=tmp_path / "s", context_length=0).open()


def test_the_value_survives_json(tmp_path: Path) -> None:
    data = TokenWindows(folder=tmp_path, context_length=16)
    assert TokenWindows.from_dict(data.to_dict()) == data
