"""The tokenizer: round trips, identity, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers, trainers

from gptcore.errors import ConfigError, DataError
from gptcore.tokenizer import END_OF_TEXT, GPT2_PATTERN, Tokenizer, gpt2_tokenizer, train_bpe

SAMPLE = (
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate:\n"
    "Rough winds do shake the darling buds of May, and summer's lease hath all too short a date.\n\n"
    "def main():\n    return [x ** 2 for x in range(10)]  # naïve café — 東京 🙂\n"
) * 3

SMALL = train_bpe([SAMPLE], vocab_size=350)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.binary())
def test_any_bytes_survive_as_byte_tokens(raw: bytes) -> None:
    assert all(SMALL.ranks[bytes([b])] < 256 for b in raw)
    assert SMALL.decode([SMALL.ranks[bytes([b])] for b in raw]) == raw.decode("utf-8", errors="replace")


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_a_literal_end_of_text_in_a_document_stays_text(before: str, after: str) -> None:
    text = before + END_OF_TEXT + after
    ids = SMALL.encode(text)
    assert SMALL.end_of_text not in ids
    assert SMALL.decode(ids) == text


def test_only_encode_with_special_recognises_special_tokens() -> None:
    ids = SMALL.encode_with_special(f"a{END_OF_TEXT}b")
    assert ids == [*SMALL.encode("a"), SMALL.end_of_text, *SMALL.encode("b")]
    assert SMALL.encode_with_special("<|user|>") == SMALL.encode("<|user|>")


def test_a_batch_is_encoded_like_its_texts() -> None:
    texts = ["", "one", "two words", SAMPLE]
    assert SMALL.encode_batch(texts) == [SMALL.encode(text) for text in texts]


def _reference(text: str, *, vocab_size: int) -> HFTokenizer:
    model = HFTokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    model.train_from_iterator([text], trainer=trainer)
    return model


def test_tiktoken_cuts_text_exactly_as_the_library_that_found_the_merges(shared_data: Path) -> None:
    train = (shared_data / "tinyshakespeare.txt").read_text()[:120_000]
    other = (shared_data / "the-verdict.txt").read_text()
    reference, ours = _reference(train, vocab_size=1500), train_bpe([train], vocab_size=1501)
    for text in (train, other, SAMPLE, "  \t\n\n x  " * 20, "aaaaaaaaaa" * 50):
        lengths = [len(ours.decode([i])) for i in ours.encode(text)] if text.isascii() else None
        pieces = reference.encode(text)
        assert len(ours.encode(text)) == len(pieces.ids)
        if lengths:
            assert lengths == [end - start for start, end in pieces.offsets]


def test_training_is_deterministic_and_keeps_to_the_size() -> None:
    again = train_bpe(iter([SAMPLE]), vocab_size=350)
    assert again.digest == SMALL.digest
    assert SMALL.vocab_size == 350
    assert SMALL.end_of_text == 349
    assert max(SMALL.encode(SAMPLE)) < SMALL.vocab_size
    assert len(SMALL.encode(SAMPLE)) < len(SAMPLE.encode()) / 2


def test_a_small_corpus_gives_fewer_tokens_than_asked_for() -> None:
    assert train_bpe(["ab ab ab"], vocab_size=5000).vocab_size < 270


def test_training_reads_the_texts_lazily() -> None:
    n_read = 0

    def texts() -> object:
        nonlocal n_read
        for _ in range(5):
            n_read += 1
            yield "some text"

    train_bpe(texts(), vocab_size=260)  # type: ignore[arg-type]
    assert n_read == 5


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size 100 is too small: 256 bytes"):
        train_bpe([SAMPLE], vocab_size=100)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_training_on_no_text_is_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text to train a tokenizer on"):
        train_bpe(texts, vocab_size=300)


def test_saved_and_loaded_is_the_same_tokenizer(tmp_path: Path) -> None:
    bigger = SMALL.with_special_tokens(["<|user|>", "<|end|>"])
    bigger.save(tmp_path / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert (loaded.name, loaded.digest, loaded.special_tokens) == (bigger.name, bigger.digest, bigger.special_tokens)
    assert loaded.encode(SAMPLE) == SMALL.encode(SAMPLE)
    assert sorted(p.name for p in (tmp_path / "tokenizer").iterdir()) == ["tokenizer.json", "vocab.tiktoken"]


def test_special_tokens_are_appended_once() -> None:
    bigger = SMALL.with_special_tokens(["<|user|>", END_OF_TEXT, "<|user|>", "<|end|>"])
    assert bigger.special_tokens == {END_OF_TEXT: 349, "<|user|>": 350, "<|end|>": 351}
    assert (bigger.vocab_size, bigger.digest != SMALL.digest) == (352, True)
    assert bigger.with_special_tokens(["<|end|>"]) is bigger
    assert SMALL.with_special_tokens([]) is SMALL


def test_decoding_an_impossible_id_is_refused() -> None:
    with pytest.raises(DataError, match=r"token id 350 is outside tokenizer 'bpe-350' \(ids 0 to 349\)"):
        SMALL.decode([1, 350])


def test_a_tokenizer_without_all_bytes_is_refused() -> None:
    with pytest.raises(DataError, match="lacks the single byte 0x01"):
        Tokenizer("x", pattern=GPT2_PATTERN, ranks={b"\0": 0}, special_tokens={END_OF_TEXT: 1})


def test_ids_with_a_hole_are_refused() -> None:
    ranks = {bytes([b]): b for b in range(256)}
    with pytest.raises(DataError, match="must have the ids 0 to 256, each once"):
        Tokenizer("x", pattern=GPT2_PATTERN, ranks=ranks, special_tokens={END_OF_TEXT: 300})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json is missing: .*nowhere is not a tokenizer folder"):
        Tokenizer.load(tmp_path / "nowhere")


def test_a_changed_vocabulary_file_is_noticed(tmp_path: Path) -> None:
    SMALL.save(tmp_path)
    path = tmp_path / "vocab.tiktoken"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"is damaged: vocab\.tiktoken and tokenizer\.json give digest"):
        Tokenizer.load(tmp_path)
    path.write_text("".join([*lines[:3], "not-base64! x\n"]))
    with pytest.raises(DataError, match=r"vocab\.tiktoken, line 4: not a base64 token"):
        Tokenizer.load(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"vocab\.tiktoken cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": 1}', '{"name": "x", "pattern": "y"}'])
def test_broken_settings_are_refused(tmp_path: Path, content: str) -> None:
    SMALL.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="cannot be read as a tokenizer's settings"):
        Tokenizer.load(tmp_path)


def test_altered_settings_are_noticed(tmp_path: Path) -> None:
    SMALL.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "pattern": r"\s+"}))
    with pytest.raises(DataError, match="is damaged"):
        Tokenizer.load(tmp_path)


@pytest.mark.usefixtures("gpt2_cache")
def test_gpt2_has_its_known_ids() -> None:
    gpt2 = gpt2_tokenizer()
    assert (gpt2.vocab_size, gpt2.end_of_text, gpt2.name) == (50257, 50256, "gpt2")
    assert gpt2.encode("Hello, world") == [15496, 11, 995]
    assert gpt2.with_special_tokens(["<|end|>"]).encode("Hello, world") == [15496, 11, 995]


def test_gpt2_without_network_names_the_files_and_the_remedy(tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9"
    environment = {**os.environ, "TIKTOKEN_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": closed, "https_proxy": closed}
    environment.pop("NO_PROXY", None)
    environment.pop("no_proxy", None)
    code = (
        "from gptcore.errors import DataError\nfrom gptcore.tokenizer import gpt2_tokenizer\n"
        "try:\n    gpt2_tokenizer()\nexcept DataError as error:\n    print(error)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True)
    for part in ("vocab.bpe", "encoder.json", "https://", "TIKTOKEN_CACHE_DIR", str(tmp_path), "train a tokenizer"):
        assert part in done.stdout, done.stdout + done.stderr
