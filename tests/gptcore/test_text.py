"""Prompts in, strings out: templates, stop strings, and prompts that are too long."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gptcore import checkpoint
from gptcore.checkpoint import ModelSpec
from gptcore.data import Ledger, template_by_name
from gptcore.errors import ConfigError, TokenizerMismatch
from gptcore.generation import Generator, Request, Sampling
from gptcore.models import GPT
from gptcore.text import TextModel, Turn
from gptcore.tokenizer import Tokenizer, train_bpe
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


def continued(model: TextModel, ids: list[int], sampling: Sampling = GREEDY) -> list[str]:
    """What the model says after these tokens."""
    request = Request(ids, sampling, end_token=model.end_token, stop=model.stops)
    return [Generator(model.model, tokenizer=model.tokenizer).generate([request])[0].text.strip()]


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
    assert model.respond([("x", "")], sampling=Sampling(max_new_tokens=40)) == ["the fog and the tide"]


def test_an_answer_ends_before_the_stop_string_of_its_template(saying: Callable[..., TextModel]) -> None:
    prompt = template_by_name("short").encode_prompt("Why?", tokenizer=saying("").tokenizer)
    model = saying("Because.\nQ: And then?\nA: More", template="short", prompt_length=len(prompt))
    seen: list[str] = []
    sampling = Sampling(max_new_tokens=40)
    answers = model.respond([("Why?", "")], sampling=sampling, on_text=lambda _, text: seen.append(text))
    assert answers == ["Because."] == ["".join(seen)]
    assert len(seen) > 2
    assert model.respond([("Why?", "")], sampling=sampling, stop=["cau"]) == ["Be"]


def test_prompts_go_through_the_template(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(context_length=256), tokenizer, template_by_name("alpaca"))
    text = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    ids = tokenizer.encode(f"{text}\n\n### Instruction:\nSay it\n\n### Input:\nfog\n\n### Response:\n")
    assert model.respond([("Say it", "fog")], sampling=GREEDY) == continued(model, ids)


def test_answers_come_back_in_the_order_of_the_prompts(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(context_length=64, tied_head=False), tokenizer)
    prompts = [("a long prompt about the fog", ""), ("x", ""), ("the cat", "and the light"), ("bells", "")]
    done: list[int] = []
    together = model.respond(prompts, sampling=GREEDY, batch_size=3, on_done=done.append)
    assert together == [model.respond([prompt], sampling=GREEDY)[0] for prompt in prompts]
    assert len(set(together)) == 4
    assert done == [1, 2, 3, 4]


def test_a_prompt_that_is_too_long_loses_its_front_with_a_warning(
    gpt: Build, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    model = TextModel(gpt(tied_head=False), tokenizer)
    long = "The keeper counted " + "word " * 30 + "and saw four ships in the fog"
    ids = tokenizer.encode(long)
    answer = model.respond([(long, "")], sampling=GREEDY)
    assert caplog.messages == [f"a prompt of {len(ids)} tokens was cut to its last 22"]
    assert answer == continued(model, ids[-22:]) != continued(model, ids[:22])


def test_a_long_answer_does_not_cost_the_question(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(tied_head=False), tokenizer)
    ids = tokenizer.encode("and saw four ships")
    assert len(ids) < 16
    asked = Sampling(max_new_tokens=5_000)
    assert model.respond([("and saw four ships", "")], sampling=asked) == continued(model, ids, asked)


def test_what_is_cut_is_in_the_ledger(gpt: Build, tokenizer: Tokenizer) -> None:
    ledger = Ledger()
    TextModel(gpt(), tokenizer).respond([("fog", ""), ("word " * 40, "")], sampling=GREEDY, ledger=ledger)
    ledger.check()
    assert (ledger.total("kept", stage="answer"), ledger.total("cut", stage="answer")) == (2, 1)


def test_a_classifier_does_not_answer(gpt: Build, tokenizer: Tokenizer, tmp_path: Path) -> None:
    spec = ModelSpec(gpt().config, (Classifier(labels=("a", "b")),), tokenizer_digest=tokenizer.digest)
    checkpoint.save(tmp_path / "c", model=spec.build(), spec=spec, tokenizer=tokenizer)
    with pytest.raises(
        ConfigError,
        match="c has a head that gives classes in the place of words, so it cannot",
    ):
        TextModel.load(tmp_path / "c")


def test_an_empty_prompt_starts_from_end_of_text(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer)
    assert model.respond([("", "")], sampling=GREEDY) == continued(model, [tokenizer.end_of_text])


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


CHAT = [Turn("system", "Be brief."), Turn("user", "Who?"), Turn("assistant", "The keeper."), Turn("user", "Why?")]


@pytest.mark.parametrize("name", ["alpaca", "short"])
def test_a_conversation_is_the_training_text_of_its_exchanges(gpt: Build, tokenizer: Tokenizer, name: str) -> None:
    template = template_by_name(name)
    model = TextModel(gpt(), tokenizer, template)
    expected = [
        *template.encode_prompt("Be brief.\n\nWho?", tokenizer=tokenizer),
        *template.encode_response("The keeper.", tokenizer=tokenizer),
        *template.encode_prompt("Why?", tokenizer=tokenizer),
    ]
    assert model.encode_chat(CHAT, room=10_000) == (expected, 0)


def test_the_oldest_exchanges_go_first_and_the_system_stays(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer, template_by_name("short"))
    whole, _ = model.encode_chat(CHAT, room=10_000)
    left = template_by_name("short").encode_prompt("Be brief.\n\nWhy?", tokenizer=tokenizer)
    for room in (len(whole) - 1, len(left), 1):
        assert model.encode_chat(CHAT, room=room) == (left, len(whole) - len(left))


def test_an_answer_that_was_begun_is_gone_on_with(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer, template_by_name("short"))
    ids, _ = model.encode_chat([Turn("user", "Who?"), Turn("user", "Say!"), Turn("assistant", "The")], room=100)
    assert tokenizer.decode(ids) == "Q: Who?\n\nSay!\nA: The"


def test_without_a_template_a_conversation_is_plain_text(gpt: Build, tokenizer: Tokenizer) -> None:
    ids, _ = TextModel(gpt(), tokenizer).encode_chat([Turn("assistant", "Hello."), *CHAT], room=100)
    assert tokenizer.decode(ids) == "Be brief.\n\n\nHello.\nWho?\nThe keeper.\nWhy?"


def test_a_conversation_without_a_question_is_refused(gpt: Build, tokenizer: Tokenizer) -> None:
    with pytest.raises(
        ConfigError, match="the conversation has no message of a user; its last one is what is answered"
    ):
        TextModel(gpt(), tokenizer).encode_chat([Turn("system", "Be brief.")], room=100)


@pytest.mark.parametrize("template", [None, "alpaca"])
def test_with_a_draft_the_answer_is_the_same(gpt: Build, tokenizer: Tokenizer, template: str | None) -> None:
    how = template_by_name(template) if template else None
    model, same, other = (TextModel(gpt(seed=seed, context_length=256), tokenizer, how) for seed in (1, 1, 2))
    sampling = Sampling(max_new_tokens=12)
    [wanted] = model.respond([("the cat", "")], sampling=sampling)
    text, found = model.respond_with_draft("the cat", draft=same, sampling=sampling)
    assert (text, found.n_accepted) == (wanted, found.n_drafted)
    assert found.n_passes < len(found.tokens)
    assert model.respond_with_draft("the cat", draft=other, sampling=sampling)[0] == wanted
    end = wanted[3:5]
    [short] = model.respond([("the cat", "")], sampling=sampling, stop=[end])
    assert model.respond_with_draft("the cat", draft=other, sampling=sampling, stop=[end])[0] == short != wanted


def test_a_draft_needs_greedy_decoding_and_the_same_tokenizer(gpt: Build, tokenizer: Tokenizer) -> None:
    model = TextModel(gpt(), tokenizer)
    with pytest.raises(ConfigError, match=r"temperature is 0\.5 and repetition_penalty 1; with a draft they must be 0"):
        model.respond_with_draft("the cat", draft=model, sampling=Sampling(4, temperature=0.5))
    stranger = TextModel(gpt(), train_bpe(["another text"], vocab_size=300))
    with pytest.raises(TokenizerMismatch, match="take a draft that was trained with the model's own"):
        model.respond_with_draft("the cat", draft=stranger, sampling=Sampling(4))
