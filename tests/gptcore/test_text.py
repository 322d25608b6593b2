"""Prompts in, strings out: templates, stop strings, and prompts that are too long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data import Ledger, template_by_name
from gptcore.errors import ConfigError
from gptcore.generate import Sampling, generate
from gptcore.models import GPT
from gptcore.text import TextModel
from gptcore.tokenizer import Tokenizer
from gptcore.transforms import Classifier

Build = Callable[..., GPT]
GREEDY = Sampling(max_new_tokens=10)


def reciting(model: GPT, ids: list[int]) -> GPT:
    """A model that says ``ids[i]`` after position i, whatever it reads.

    The residual stream is one direction per position, and the head maps that direction to the wanted token.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.norm.weight.fill_(1.0)
        width = model.config.width
        for position in range(model.config.context_length):
            model.position_embedding.weight[position, position % width] = 1.0
        assert isinstance(model.head, torch.nn.Linear)
        for position in range(width):
            model.head.weight[ids[position % len(ids)], position] += 10.0
    return model


@pytest.fixture
def saying(gpt: Build, tokenizer: Tokenizer) -> Callable[..., TextModel]:
    """A text model that answers a prompt of any length with the given text, then end-of-text."""

    def build(text: str, *, template: str | None = None, prompt_length: int = 1) -> TextModel:
        ids = [*tokenizer.encode(text), tokenizer.end_of_text]
        size = 64
        told = [tokenizer.end_of_text] * size
        for i, token in enumerate(ids):
            told[prompt_length - 1 + i] = token
        model = reciting(gpt(width=size, context_length=size, tied_head=False), told)
        return TextModel(model, tokenizer, template_by_name(template) if template else None)

    return build


def test_a_model_answers_until_end_of_text(saying: Callable[..., TextModel]) -> None:
    model = saying(" the fog and the tide ")
    assert model.complete([[5]], sampling=Sampling(max_new_tokens=40)) == ["the fog and the tide"]


def test_an_answer_ends_before_the_stop_string_of_its_template(saying: Callable[..., TextModel]) -> None:
    prompt = template_by_name("short").encode_prompt("Why?", tokenizer=saying("").tokenizer)
    model = saying("Because.\nQ: And then?\nA: More", template="short", prompt_length=len(prompt))
    seen: list[int] = []
    sampling = Sampling(max_new_tokens=40)
    assert model.respond([("Why?", "")], sampling=sampling) == ["Because."]
    model.complete([prompt], sampling=sampling, on_token=lambda _, token: seen.append(token))
    assert model.tokenizer.decode(seen).rstrip() == "Because.\nQ:"  # it did not go on behind the stop string


def test_prompts_go_through_the_template(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(context_length=256), tokenizer, template_by_name("alpaca"))
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ids = tokenizer.encode(f"{text}\n\n### Instruction:\nSay it\n\n### Input:\nfog\n\n### Response:\n")
    expected = tokenizer.decode(generate(model.model, [ids], GREEDY, end_token=tokenizer.end_of_text)[0])
    assert model.respond([("Say it", "fog")], sampling=GREEDY) == [expected.partition("\n### Instruction:")[0].strip()]


def test_answers_come_back_in_the_order_of_the_prompts(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(context_length=64, tied_head=False), tokenizer)
    prompts = [("a long prompt about the fog", ""), ("x", ""), ("the cat", "and the light"), ("bells", "")]
    done: list[int] = []
    together = model.respond(prompts, sampling=GREEDY, batch_size=3, on_done=done.append)
    assert together == [model.respond([prompt], sampling=GREEDY)[0] for prompt in prompts]
    assert len(set(together)) == 4
    assert done == [3, 4]


def test_a_prompt_that_is_too_long_loses_its_front_with_a_warning(
    gpt: Build, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = TextModel(gpt(tied_head=False), tokenizer)
    long = "The keeper counted " + "word " * 30 + "and saw four ships in the fog"
    ids = tokenizer.encode(long)
    answer = model.respond([(long, "")], sampling=GREEDY)
    assert caplog.messages == [f"a prompt of {len(ids)} tokens was cut to its last 22"]
    assert answer == model.complete([ids[-22:]], sampling=GREEDY) != model.complete([ids[:22]], sampling=GREEDY)


def test_a_long_answer_does_not_cost_the_question(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(tied_head=False), tokenizer)
    ids = tokenizer.encode("and saw four ships")
    assert len(ids) < 16
    asked = Sampling(max_new_tokens=5_000)
    assert model.respond([("and saw four ships", "")], sampling=asked) == model.complete([ids], sampling=asked)


def test_what_is_cut_is_in_the_ledger(gpt: Build, tokenizer: Tokenizer) -> None:
    ledger = Ledger()
    TextModel(gpt(), tokenizer).respond([("fog", ""), ("word " * 40, "")], sampling=GREEDY, ledger=ledger)
    ledger.check()
    assert (ledger.total("kept", stage="answer"), ledger.total("cut", stage="answer")) == (2, 1)


def test_a_classifier_does_not_answer(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> None:
    spec = ModelSpec(gpt().config, (Classifier(labels=("a", "b")),), tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=spec.build(), spec=spec, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="c is a classifier, which has classes in the place of words; give the"):
        TextModel.load(tmp_path / "c")


def test_an_empty_prompt_starts_from_end_of_text(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer)
    assert model.respond([("", "")], sampling=GREEDY) == model.complete([[tokenizer.end_of_text]], sampling=GREEDY)


def test_the_template_of_a_checkpoint_is_used_unless_another_is_named(
    gpt: Build, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = gpt()
    spec = ModelSpec(model.config, template="alpaca", tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=model, spec=spec, tokenizer=tokenizer)
    assert TextModel.load(tmp_path / "c").template == template_by_name("alpaca")
    assert TextModel.load(tmp_path / "c", template="short").template == template_by_name("short")
    with pytest.raises(ConfigError, match=r"unknown template 'alpacca'; did you mean 'alpaca'\?"):
        TextModel.load(tmp_path / "c", template="alpacca")


def test_a_template_whose_special_tokens_are_missing_is_refused(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer, template_by_name("chatml"))
    with pytest.raises(ConfigError, match=r"template 'chatml' needs the special tokens <\|im_start\|>, <\|im_end\|>"):
        model.respond([("Hello", "")], sampling=GREEDY)
