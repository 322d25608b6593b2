"""How a text becomes a row: long texts, end tokens, and the room there is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gptcore.errors import ConfigError
from gptcore.readers import LongInputs, TextReader, cut_long
from gptcore.tokenizer import train_bpe

TOKENIZER = train_bpe(["win a free prize now, see you at lunch " * 3], vocab_size=280)
TEXT = "win a prize; see you at lunch, " * 9
IDS = TOKENIZER.encode(TEXT)
END = TOKENIZER.end_of_text


@pytest.mark.parametrize(
    ("n", "keep", "expected"),
    [
        (510, "head+tail", list(range(510))),
        (800, "head+tail", [*range(128), *range(418, 800)]),
        (801, "head+tail", [*range(256), *range(547, 801)]),
        (600, "head", list(range(510))),
        (600, "tail", list(range(90, 600))),
    ],
)
def test_the_book_of_long_inputs_at_510_tokens(n: int, keep: LongInputs, expected: list[int]) -> None:
    assert cut_long(np.arange(n), context_length=510, keep=keep).tolist() == expected


@pytest.mark.parametrize("context_length", [2, 3, 64, 255, 1024])
@pytest.mark.parametrize("keep", ["head", "tail", "head+tail"])
def test_long_inputs_fill_the_context_exactly(context_length: int, keep: LongInputs) -> None:
    for n in (context_length + 1, context_length * 2, context_length * 9):
        cut = cut_long(np.arange(n), context_length=context_length, keep=keep)
        assert len(cut) == context_length
        assert (np.diff(cut) > 0).all()
        assert (keep == "tail") or cut[0] == 0
        assert (keep == "head") or cut[-1] == n - 1


@pytest.mark.parametrize("end_token", [True, False])
@pytest.mark.parametrize("longest", [None, 12, 99])
@pytest.mark.parametrize(("keep", "first", "last"), [("head", 0, None), ("tail", None, -1), ("head+tail", 0, -1)])
def test_a_long_text_fills_the_row_and_leaves_room_for_its_end_token(
    keep: LongInputs, first: int | None, last: int | None, longest: int | None, end_token: bool
) -> None:
    row = TextReader(keep, end_token, longest=longest).read(TEXT, tokenizer=TOKENIZER, context_length=20)
    room = 12 if longest == 12 else 20
    assert len(row.ids) == room
    assert bool(row.ids[-1] == END) is end_token
    words = row.ids[: room - end_token]
    assert first is None or words[first] == IDS[first]
    assert last is None or words[last] == IDS[last]
    assert (row.n_read, row.n_left_out) == (len(words), len(IDS) - len(words))


@pytest.mark.parametrize("end_token", [True, False])
def test_a_short_text_is_read_whole_and_an_empty_one_is_its_end_token_or_nothing(end_token: bool) -> None:
    reader, end = TextReader(end_token=end_token), [END] * end_token
    assert reader.read("see you", tokenizer=TOKENIZER, context_length=64).ids.tolist() == [
        *TOKENIZER.encode("see you"),
        *end,
    ]
    empty = reader.read("", tokenizer=TOKENIZER, context_length=64)
    assert (empty.ids.tolist(), empty.ids.dtype, empty.n_read) == (end, np.int64, 0)


def test_special_tokens_in_a_text_are_ordinary_text() -> None:
    row = TextReader().read("<|endoftext|>", tokenizer=TOKENIZER, context_length=64)
    assert (row.ids == END).sum() == 1


@pytest.mark.parametrize(("longest", "context_length"), [(1, 20), (None, 1)])
def test_a_row_without_room_for_text_is_refused(longest: int | None, context_length: int) -> None:
    with pytest.raises(ConfigError, match="expected room for at least 2 tokens of a text, got 1"):
        TextReader(longest=longest).read("x", tokenizer=TOKENIZER, context_length=context_length)


@pytest.mark.parametrize(("longest", "kept"), [(None, None), (20, None), (64, None), (19, 19)])
def test_a_row_as_long_as_the_context_needs_no_saying(longest: int | None, kept: int | None) -> None:
    assert TextReader(longest=longest).within(20).longest == kept


def test_a_reader_survives_json_and_an_unknown_way_is_refused() -> None:
    reader = TextReader("head+tail", end_token=False, longest=9)
    assert TextReader.from_dict(json.loads(json.dumps(reader.to_dict()))) == reader
    with pytest.raises(ConfigError, match=r"TextReader\.long_inputs is 'middle'; it must be one of 'head', 'tail'"):
        TextReader.from_dict({"long_inputs": "middle"})
