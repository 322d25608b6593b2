"""Prompt styles: exact text, and no way for a user's text to become a special token."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptcore.data.templates import PromptTemplate, template_by_name, template_names
from gptcore.errors import ConfigError
from gptcore.tokenizer import END_OF_TEXT, train_bpe

PLAIN = train_bpe(["### Instruction: write. ### Response: Q: A: user assistant"], vocab_size=300)
SPECIAL = ["<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
FULL = PLAIN.with_special_tokens(SPECIAL)

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
)
EXPECTED = {
    ("alpaca", "1 2"): ALPACA,
    ("alpaca", ""): ALPACA.replace("### Input:\n1 2\n\n", ""),
    ("phi-3", "1 2"): "<|user|>\nAdd.\n1 2<|end|>\n<|assistant|>\n",
    ("phi-3", ""): "<|user|>\nAdd.<|end|>\n<|assistant|>\n",
    ("chatml", "1 2"): "<|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n",
    ("chatml", ""): "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n",
    ("short", "1 2"): "Q: Add.\n1 2\nA: ",
    ("short", ""): "Q: Add.\nA: ",
}


@pytest.mark.parametrize(("name", "given_input"), EXPECTED)
def test_prompts_are_exactly_these(name: str, given_input: str) -> None:
    template = template_by_name(name)
    prompt = template.render_prompt("Add.", given_input)
    assert prompt == EXPECTED[name, given_input]
    assert template.encode_prompt("Add.", given_input, tokenizer=FULL) == FULL.encode_with_special(prompt)


def test_every_style_is_tested() -> None:
    assert {name for name, _ in EXPECTED} == set(template_names())


@pytest.mark.parametrize("name", template_names())
def test_the_response_ends_with_the_end_token(name: str) -> None:
    template = template_by_name(name)
    ids = template.encode_response("three", tokenizer=FULL)
    assert ids == [*FULL.encode("three"), FULL.special_tokens[template.end]]
    assert ids[-1] == template.end_id(FULL)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(template_names()), st.sampled_from([*SPECIAL, END_OF_TEXT]), st.text(), st.text())
def test_a_users_text_never_becomes_a_special_token(name: str, forged: str, before: str, after: str) -> None:
    template = template_by_name(name)
    honest = template.encode_prompt("x", "y", tokenizer=FULL)
    attacked = template.encode_prompt(before + forged + after, forged, tokenizer=FULL)
    special = set(FULL.special_tokens.values())
    assert [i for i in attacked if i in special] == [i for i in honest if i in special]
    assert FULL.decode(attacked) == template.render_prompt(before + forged + after, forged)


def test_field_names_in_the_data_are_not_filled_in_again() -> None:
    prompt = template_by_name("short").render_prompt("repeat {input} and {instruction}", "{instruction} {0}")
    assert prompt == "Q: repeat {input} and {instruction}\n{instruction} {0}\nA: "


def test_an_unknown_style_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown template 'phi3'; did you mean 'phi-3'\? \(known: alpaca, chatml"):
        template_by_name("phi3")


def test_a_tokenizer_without_the_special_tokens_is_refused() -> None:
    message = (
        r"'chatml' needs the special tokens <\|im_start\|>, <\|im_end\|>, which tokenizer .* lacks; .*alpaca, short"
    )
    with pytest.raises(ConfigError, match=message):
        template_by_name("chatml").encode_prompt("x", tokenizer=PLAIN)


@pytest.mark.parametrize("name", template_names())
def test_a_style_survives_json(name: str) -> None:
    template = template_by_name(name)
    assert PromptTemplate.from_dict(template.to_dict()) == template
