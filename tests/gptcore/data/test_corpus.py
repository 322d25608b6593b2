"""Token shards: what is written is what is read, and every damage is noticed."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.data import batches
from gptcore.data.corpus import open_shards, read_manifest, read_texts, write_shards
from gptcore.errors import ConfigError, DataError, OutOfDiskError
from gptcore.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, train_bpe

TOKENIZER = train_bpe(["the cat sat on the mat, the dog lay on the log. " * 5], vocab_size=300)
TEXTS = ["the cat sat on the mat", "", "the dog 🙂", "x"]


def _all_tokens(folder: Path) -> list[int]:
    return [int(i) for array in open_shards(folder).arrays for i in array]


def _expected(texts: list[str], tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    return [i for text in texts if text for i in (*tokenizer.encode(text), tokenizer.end_of_text)]


@pytest.mark.parametrize("shard_tokens", [1, 3, 7, 1 << 20])
def test_shards_hold_every_document_and_its_end(tmp_path: Path, shard_tokens: int) -> None:
    manifest = write_shards(TEXTS, tokenizer=TOKENIZER, folder=tmp_path / "shards", shard_tokens=shard_tokens)
    expected = _expected(TEXTS)
    assert _all_tokens(tmp_path / "shards") == expected
    assert manifest == read_manifest(tmp_path / "shards")
    assert (manifest.n_documents, manifest.n_tokens, manifest.max_id) == (3, len(expected), TOKENIZER.end_of_text)
    assert manifest.n_bytes == sum(len(text.encode()) for text in TEXTS)
    assert len(manifest.shards) == -(-len(expected) // shard_tokens)
    assert (manifest.dtype, manifest.tokenizer_digest) == ("uint16", TOKENIZER.digest)


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=8), shard_tokens=st.integers(1, 40))
def test_any_texts_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], shard_tokens: int) -> None:
    folder = tmp_path_factory.mktemp("shards") / "x"
    write_shards(texts, tokenizer=TOKENIZER, folder=folder, shard_tokens=shard_tokens)
    decoded = TOKENIZER.decode(_all_tokens(folder))
    assert decoded == "".join(text + "<|endoftext|>" for text in texts)


def test_a_vocabulary_over_65536_is_stored_in_four_bytes(tmp_path: Path) -> None:
    pairs = (bytes([i, j]) for i in range(256) for j in range(256))
    ranks = {**{bytes([i]): i for i in range(256)}, **{pair: 256 + i for i, pair in enumerate(pairs)}}
    big = Tokenizer("pairs", pattern=GPT2_PATTERN, ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)})
    assert write_shards(["the cat"], tokenizer=big, folder=tmp_path / "s").dtype == "uint32"
    assert _all_tokens(tmp_path / "s") == _expected(["the cat"], big)


def test_the_same_texts_give_the_same_fingerprint_and_others_another(tmp_path: Path) -> None:
    prints = []
    for name, texts in {"a": TEXTS, "b": TEXTS, "c": [*TEXTS, "more"]}.items():
        write_shards(texts, tokenizer=TOKENIZER, folder=tmp_path / name)
        prints.append(open_shards(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_documents_are_read_lazily_and_in_bounded_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_ITEMS", 256)
    alive = most = 0

    class Text(str):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def texts() -> Iterator[str]:
        nonlocal alive, most
        for i in range(2000):
            alive += 1
            most = max(most, alive)
            yield Text(f"the cat number {i}")

    write_shards(texts(), tokenizer=TOKENIZER, folder=tmp_path / "s")
    assert 0 < most < 600


def test_an_older_folder_is_replaced(tmp_path: Path) -> None:
    write_shards(["old old old"], tokenizer=TOKENIZER, folder=tmp_path / "s", shard_tokens=1)
    write_shards(["new"], tokenizer=TOKENIZER, folder=tmp_path / "s")
    assert _all_tokens(tmp_path / "s") == _expected(["new"])
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused_and_leaves_nothing(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(DataError, match=r"no text for .*: there is no document, or every document is empty"):
        write_shards(texts, tokenizer=TOKENIZER, folder=tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_a_fault_of_the_documents_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "a" * 2_000_000
        raise DataError("line 7 is broken")

    with pytest.raises(DataError, match="line 7 is broken"):
        write_shards(broken(), tokenizer=TOKENIZER, folder=tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_shards_of_no_tokens_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected shard_tokens to be at least 1, got 0"):
        write_shards(TEXTS, tokenizer=TOKENIZER, folder=tmp_path / "s", shard_tokens=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Shards of 8 tokens each."""
    write_shards(["the cat sat on the mat"] * 9, tokenizer=TOKENIZER, folder=tmp_path / "s", shard_tokens=8)
    return tmp_path / "s"


def test_a_flipped_byte_is_noticed(folder: Path) -> None:
    shard = folder / "shard-00001.bin"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00001\.bin does not match the sha256.*make it again"):
        open_shards(folder)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("size", [0, 1, 8, 15])
def test_a_truncated_shard_is_noticed_before_it_is_mapped(folder: Path, size: int, *, verify: bool) -> None:
    shard = folder / "shard-00001.bin"
    shard.write_bytes(shard.read_bytes()[:size])
    with pytest.raises(DataError, match=rf"shard-00001\.bin has {size} bytes"):
        open_shards(folder, verify=verify)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "shard-00000.bin").unlink()
    with pytest.raises(DataError, match=r"shard-00000\.bin is missing"):
        open_shards(folder)


def test_a_folder_without_shards_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is not a folder of token shards; prepare the data"):
        open_shards(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "ShardManifest", "colour": 1}'])
def test_a_broken_description_is_refused(folder: Path, content: str) -> None:
    (folder / "shards.json").write_text(content)
    with pytest.raises(DataError, match=r"shards\.json is damaged .*prepare the data again"):
        open_shards(folder)


def test_a_description_that_contradicts_itself_is_refused(folder: Path) -> None:
    description = json.loads((folder / "shards.json").read_text())
    (folder / "shards.json").write_text(json.dumps({**description, "n_tokens": 3}))
    with pytest.raises(DataError, match=r"shards\.json contradicts itself"):
        open_shards(folder)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    class Lying(Tokenizer):
        """Says that its vocabulary is smaller than it is."""

        @property
        def vocab_size(self) -> int:
            return 50

    lying = Lying("lying", pattern=r"\S+|\s+", ranks=TOKENIZER.ranks, special_tokens=TOKENIZER.special_tokens)
    write_shards(["zz"], tokenizer=lying, folder=tmp_path / "s")
    with pytest.raises(DataError, match=rf"holds the id {TOKENIZER.end_of_text}, outside the vocabulary of 50"):
        open_shards(tmp_path / "s")


@contextmanager
def _file_size_limit(n_bytes: int) -> Iterator[None]:
    """Files of this process cannot grow beyond ``n_bytes``: the writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        _file_size_limit(4096),
        pytest.raises(OutOfDiskError, match=r"could not be written: File too large .*free") as e,
    ):
        write_shards(["the cat sat on the mat"] * 5000, tokenizer=TOKENIZER, folder=tmp_path / "s")
    assert "nothing half-written" in str(e.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_older_shards(folder: Path) -> None:
    before = _all_tokens(folder)
    with _file_size_limit(4096), pytest.raises(OutOfDiskError):
        write_shards(["the cat sat on the mat"] * 5000, tokenizer=TOKENIZER, folder=folder)
    assert _all_tokens(folder) == before


def test_arrays_are_read_only(folder: Path) -> None:
    array = open_shards(folder).arrays[0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = np.uint16(1)


@pytest.mark.parametrize("shard_tokens", [1, 7, 1 << 20])
def test_shards_give_back_the_texts(tmp_path: Path, shard_tokens: int) -> None:
    write_shards(TEXTS, tokenizer=TOKENIZER, folder=tmp_path / "shards", shard_tokens=shard_tokens)
    assert list(read_texts(tmp_path / "shards", tokenizer=TOKENIZER)) == [text for text in TEXTS if text]
    with pytest.raises(DataError, match="was made with the tokenizer"):
        list(read_texts(tmp_path / "shards", tokenizer=train_bpe(["other words"], vocab_size=260)))
