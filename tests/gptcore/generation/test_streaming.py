"""Text in pieces: never half a character, never a stop string, and together the whole text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.generation.streaming import TextStream
from gptcore.tokenizer import Tokenizer, train_bpe

TOKENIZER = train_bpe(["stop it, stop here: the stoat stops. ### End ###"], vocab_size=270)


def pieces(ids: list[int], stops: tuple[str, ...] = (), tokenizer: Tokenizer = TOKENIZER) -> tuple[list[str], bool]:
    stream, shown = TextStream(tokenizer, stops), []
    for token in ids:
        shown.append(stream.push(token))
        if stream.stopped:
            break
    shown.append(stream.finish())
    assert stream.text == "".join(shown)
    return shown, stream.stopped


def test_a_character_of_several_tokens_is_shown_when_it_is_whole() -> None:
    ids = list("é🙂".encode())  # ids below 256 are bytes
    assert pieces(ids) == (["", "é", "", "", "", "🙂", ""], False)


def test_a_cut_character_is_shown_as_such_at_the_end() -> None:
    assert pieces(list("🙂".encode())[:2]) == (["", "", "�"], False)


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    assert pieces(list(b"go on ### Ending"), ("### End",)) == ([*"go on ", *[""] * 7, ""], True)


def test_what_only_began_like_a_stop_string_is_shown_after_all() -> None:
    shown, stopped = pieces(list(b"a ## b ##"), ("###",))
    assert ("".join(shown), stopped) == ("a ## b ##", False)
    assert shown[2:5] == ["", "", "## "]
    assert shown[-1] == "##"


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    assert "".join(pieces(list(b"one two three"), ("three", "two", "e t"))[0]) == "on"


TEXTS = st.text(alphabet="ab#é🙂 ", max_size=30)
STOPS = st.lists(st.text(alphabet="ab#é ", min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=200, deadline=None)
@given(TEXTS, STOPS)
def test_pieces_are_the_text_before_the_first_stop_string(text: str, stops: tuple[str, ...]) -> None:
    complete = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    shown, stopped = pieces(TOKENIZER.encode(text), stops)
    assert stopped == bool(complete)
    assert "".join(shown) == (text[: min(complete)[1]] if complete else text)
    assert "".join(pieces(list(text.encode()), stops)[0]) == "".join(shown)  # wherever tokens end


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 269), max_size=20))
def test_any_tokens_are_shown_as_they_are_decoded(ids: list[int]) -> None:
    assert "".join(pieces(ids)[0]) == TOKENIZER.decode(ids)
