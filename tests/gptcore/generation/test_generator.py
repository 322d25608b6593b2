"""Decoding: cache, ragged prompts, chunks, slots and neighbours change nothing about which tokens come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch

from gptcore.errors import ConfigError, DataError, DivergedError, PromptTooLong, TokenizerMismatch
from gptcore.generation import Answer, Event, Generator, Request, Sampling
from gptcore.generation.sampling import penalise, sample_token
from gptcore.models.gpt import GPT
from gptcore.tokenizer import Tokenizer

Build = Callable[..., GPT]
PROMPTS = [[5, 9, 2, 250, 17, 8], [7], [1, 2, 3], [299, 0, 44, 44, 44, 44, 44, 44, 3]]
WAYS = {
    "greedy": Sampling(max_new_tokens=12),
    "temperature": Sampling(max_new_tokens=12, temperature=1.3, seed=4),
    "top_k": Sampling(max_new_tokens=12, temperature=1.0, top_k=5, seed=4),
    "top_p": Sampling(max_new_tokens=12, temperature=1.0, top_p=0.8, seed=4),
    "min_p": Sampling(max_new_tokens=12, temperature=1.0, min_p=0.2, seed=4),
    "penalty": Sampling(max_new_tokens=12, repetition_penalty=1.4),
    "all": Sampling(
        max_new_tokens=12, temperature=0.8, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2, seed=4
    ),
}


def without_cache(model: GPT, prompt: list[int], sampling: Sampling) -> list[int]:
    """The definition: the whole text through the model for each new token."""
    tokens, draws = list(prompt), torch.Generator().manual_seed(sampling.seed)
    for _ in range(sampling.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]))[0, -1]
        seen = torch.zeros(len(logits), dtype=torch.bool)
        seen[tokens] = True
        tokens.append(sample_token(penalise(logits, seen, sampling.repetition_penalty), sampling, draws))
    return tokens[len(prompt) :]


def ids(answers: Sequence[Answer]) -> list[list[int]]:
    return [answer.ids for answer in answers]


def alone(model: GPT, requests: Sequence[Request], **options: object) -> list[Answer]:
    return [Generator(model, slots=1, **options).generate([request])[0] for request in requests]  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
def test_cached_decoding_equals_uncached(gpt: Build, way: str) -> None:
    model = gpt(tied_head=False)
    found = alone(model, [Request(PROMPTS[0], WAYS[way])])
    assert ids(found) == [without_cache(model, PROMPTS[0], WAYS[way])]
    assert len(set(found[0].ids)) > 2  # a model that repeats one token would show nothing
    assert (found[0].finish, found[0].n_prompt, found[0].n_cut) == ("length", 6, 0)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("way", WAYS)
def test_a_ragged_batch_gives_what_each_prompt_gives_alone(gpt: Build, way: str, slots: int) -> None:
    model = gpt(qkv_bias=False, tied_head=False)
    requests = [Request(prompt, WAYS[way]) for prompt in PROMPTS]
    together = Generator(model, slots=slots, prefill_chunk=4).generate(requests)
    assert together == alone(model, requests, prefill_chunk=4)
    assert len({tuple(row) for row in ids(together)}) == len(PROMPTS)


def test_each_request_keeps_its_own_way_and_seed(gpt: Build) -> None:
    model = gpt(tied_head=False)
    ways = [dataclasses.replace(way, max_new_tokens=6 + i, seed=i) for i, way in enumerate(WAYS.values())]
    requests = [Request(PROMPTS[i % 4], way) for i, way in enumerate(ways)]
    assert Generator(model, slots=4).generate(requests) == alone(model, requests)


@pytest.mark.parametrize("cuts", [(1, 1, 1, 1, 1, 1, 1, 1, 1, 1), (4, 6), (9, 1), (3, 3, 4)])
def test_prefilling_in_chunks_equals_one_pass(gpt: Build, cuts: tuple[int, ...]) -> None:
    model, tokens = gpt(), torch.randint(300, (2, 10))
    cache, parts = model.new_cache(2), []
    with torch.no_grad():
        for piece in tokens.split(cuts, dim=1):
            parts.append(model(piece, cache=cache))
            cache.advance(piece.shape[1])
        assert torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 2, 5, 9, 100])
def test_any_chunk_gives_the_same_tokens(gpt: Build, chunk: int) -> None:
    model = gpt(tied_head=False)
    requests = [Request(prompt, WAYS["all"]) for prompt in PROMPTS]
    assert ids(Generator(model, prefill_chunk=chunk).generate(requests)) == ids(alone(model, requests))


def test_requests_join_and_leave_between_steps(gpt: Build) -> None:
    model = gpt(tied_head=False)
    requests = [
        Request(PROMPTS[i % 4], dataclasses.replace(WAYS["all"], max_new_tokens=2 + 3 * i % 7, seed=i))
        for i in range(12)
    ]
    generator, answers, waiting = Generator(model, slots=3, prefill_chunk=3), {}, list(enumerate(requests))
    numbers: dict[int, int] = {}
    n_seen: set[int] = set()
    for step in range(100):
        if waiting and step % 2 == 0:  # one joins every second step, whatever the others are doing
            number, request = waiting.pop(0)
            numbers[generator.submit(request)] = number
        for event in generator.step():
            if event.answer:
                answers[numbers[event.ticket]] = event.answer
        n_seen.add(generator.n_active)
    assert [answers[number] for number in range(12)] == alone(model, requests, prefill_chunk=3)
    assert n_seen >= {0, 1, 2, 3}
    assert (generator.n_active, generator.n_waiting, generator.step()) == (0, 0, [])


def test_a_row_that_ends_early_does_not_disturb_the_others(gpt: Build) -> None:
    model = gpt()
    whole = ids(alone(model, [Request(prompt, WAYS["greedy"]) for prompt in PROMPTS]))
    end = whole[1][3]
    together = Generator(model).generate([Request(prompt, WAYS["greedy"], end_token=end) for prompt in PROMPTS])
    assert ids(together) == [row[: row.index(end)] if end in row else row for row in whole]
    assert [answer.finish for answer in together] == ["stop" if end in row else "length" for row in whole]
    assert len(together[1].ids) <= 3


def test_events_come_with_each_token_and_the_last_brings_the_answer(gpt: Build) -> None:
    seen: list[tuple[int, Event]] = []
    requests = [Request(prompt, WAYS["all"]) for prompt in PROMPTS]
    answers = Generator(gpt()).generate(requests, on_event=lambda number, event: seen.append((number, event)))
    for number, answer in enumerate(answers):
        events = [event for i, event in seen if i == number]
        assert [event.token.id for event in events if event.token] == answer.ids
        assert [event.answer for event in events] == [None] * (len(events) - 1) + [answer]
    assert [number for number, _ in seen[:4]] == [0, 1, 2, 3]


def test_generation_ends_with_the_context_of_each_row(gpt: Build) -> None:
    requests = [
        Request(list(range(30)), Sampling(max_new_tokens=500)),
        Request([1, 2, 3], Sampling(max_new_tokens=500)),
    ]
    answers = Generator(gpt()).generate(requests)
    assert [(len(answer.ids), answer.finish) for answer in answers] == [(2, "length"), (29, "length")]
    assert answers == alone(gpt(), requests)


def test_a_smaller_capacity_is_a_shorter_context(gpt: Build) -> None:
    request = Request([1, 2, 3], Sampling(max_new_tokens=500))
    (short,) = Generator(gpt(), capacity=10).generate([request])
    assert len(short.ids) == 7
    assert short.ids == alone(gpt(), [request])[0].ids[:7]


def test_the_models_mode_is_put_back(gpt: Build) -> None:
    model = gpt(dropout=0.5).train()
    assert alone(model, [Request([1])]) == alone(model, [Request([1])])
    assert model.training


def test_no_prompts_give_no_answers(gpt: Build) -> None:
    assert Generator(gpt()).generate([]) == []


def test_another_seed_gives_another_text(gpt: Build) -> None:
    ways = [Sampling(max_new_tokens=12, temperature=1.0, seed=seed) for seed in (1, 2, 1)]
    texts = ids(Generator(gpt()).generate([Request([5], way) for way in ways]))
    assert texts[0] == texts[2] != texts[1]


def test_probabilities_are_those_of_the_model(gpt: Build) -> None:
    model = gpt(tied_head=False)
    way = dataclasses.replace(WAYS["all"], max_new_tokens=5)
    (answer,) = alone(model, [Request(PROMPTS[0], way, n_alternatives=3)])
    text = torch.tensor([[*PROMPTS[0], *answer.ids]])
    expected = model(text)[0, 5:-1].detach().log_softmax(dim=-1)
    for token, row in zip(answer.tokens, expected, strict=True):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        assert [i for i, _ in token.alternatives] == row.topk(3).indices.tolist()
        assert [p for _, p in token.alternatives] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
    assert all(token.logprob is None for token in alone(model, [Request(PROMPTS[0], way)])[0].tokens)


def test_exact_answers_are_the_same_to_the_last_bit_whatever_the_neighbours(gpt: Build) -> None:
    model = gpt(tied_head=False, width=64, n_heads=4)
    asked = Request(PROMPTS[0], dataclasses.replace(WAYS["all"], max_new_tokens=20), n_alternatives=5)
    others = [Request(PROMPTS[i % 4], Sampling(max_new_tokens=1 + i % 5, temperature=1.0, seed=i)) for i in range(15)]
    expected = Generator(model, slots=6, exact=True).generate([asked])[0]
    for place in (0, 1, 5, 9, 15):
        crowd = [*others[:place], asked, *others[place:]]
        assert Generator(model, slots=6, exact=True).generate(crowd)[place] == expected


@pytest.mark.parametrize("where", ["waiting", "reading", "answering"])
def test_a_cancelled_request_leaves_and_the_others_do_not_notice(gpt: Build, where: str) -> None:
    model = gpt(tied_head=False)
    requests = [Request(PROMPTS[i], WAYS["all"]) for i in (0, 3, 2)]
    slots, n_steps = {"waiting": (1, 3), "reading": (3, 4), "answering": (3, 9)}[where]
    generator = Generator(model, slots=slots, prefill_chunk=2)
    tickets = [generator.submit(request) for request in requests]
    events = [event for _ in range(n_steps) for event in generator.step()]
    n_active = generator.n_active
    cancelled = generator.cancel(tickets[1])
    assert cancelled is not None
    assert cancelled.finish == "cancelled"
    assert bool(cancelled.ids) == (where == "answering")
    assert generator.n_active == n_active - (where != "waiting")
    while generator.n_active or generator.n_waiting:
        events += generator.step()
    answers = {event.ticket: event.answer for event in events if event.answer}
    expected = alone(model, requests, prefill_chunk=2)
    assert answers == {tickets[0]: expected[0], tickets[2]: expected[2]}
    assert cancelled.ids == expected[1].ids[: len(cancelled.ids)]
    assert generator.cancel(tickets[1]) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(gpt: Build, bad: float, temperature: float) -> None:
    model = gpt(tied_head=False).train()
    with torch.no_grad():
        model.norm.bias.fill_(1.0)
        assert isinstance(model.head, torch.nn.Linear)
        model.head.weight[7] = bad
    generator = Generator(model)
    with pytest.raises(DivergedError, match="gives NaN or infinite logits; its weights are damaged or it diverged"):
        generator.generate([Request([1, 2], Sampling(temperature=temperature)), Request([3])])
    assert model.training
    assert (generator.n_active, generator.n_waiting) == (0, 0)


def test_a_fault_of_one_request_leaves_the_others_alone(gpt: Build) -> None:
    model = gpt(tied_head=False)
    with torch.no_grad():
        model.token_embedding.weight[299] = float("nan")
    generator = Generator(model)
    tickets = [generator.submit(Request(prompt, WAYS["greedy"])) for prompt in PROMPTS]
    answers = {event.ticket: event.answer for _ in range(13) for event in generator.step() if event.answer}
    assert [answers[ticket].finish for ticket in tickets] == ["length", "length", "length", "error"]
    assert isinstance(answers[tickets[3]].error, DivergedError)
    assert [answers[ticket] for ticket in tickets[:3]] == alone(
        model, [Request(p, WAYS["greedy"]) for p in PROMPTS[:3]]
    )


def test_what_is_abandoned_ends_with_the_error_and_those_who_wait_go_on(gpt: Build) -> None:
    generator = Generator(gpt(), slots=2, prefill_chunk=2)
    tickets = [generator.submit(Request(prompt, WAYS["greedy"])) for prompt in PROMPTS]
    for _ in range(4):
        generator.step()
    events = generator.abandon(DivergedError("no memory"))
    assert {event.ticket for event in events} == set(tickets[:2])
    assert all(event.answer and event.answer.finish == "error" for event in events)
    left = {event.ticket: event.answer for _ in range(20) for event in generator.step() if event.answer}
    assert list(left.values()) == alone(gpt(), [Request(prompt, WAYS["greedy"]) for prompt in PROMPTS[2:]])


def test_a_long_prompt_is_cut_if_that_was_asked_for_and_told(gpt: Build) -> None:
    prompt = [i % 300 for i in range(7, 90)]
    (answer,) = alone(gpt(), [Request(prompt, WAYS["greedy"], reserve=12, overflow="cut_front")])
    assert (answer.n_prompt, answer.n_cut, len(answer.ids)) == (20, 63, 12)
    assert answer.ids == alone(gpt(), [Request(prompt[-20:], WAYS["greedy"])])[0].ids


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        (Request([]), ConfigError, "the prompt is empty; give at least one token"),
        (Request([2] * 32), PromptTooLong, "has 32 tokens, the model's context holds 32 and 1 must be free"),
        (Request([2] * 29, reserve=4), PromptTooLong, "has 29 tokens, the model's context holds 32 and 4 must be free"),
        (Request([1], reserve=32), ConfigError, "expected reserve to be from 1 to 31, got 32"),
        (Request([1, 300]), DataError, r"token id 300 is outside the vocabulary \(ids 0 to 299\)"),
        (Request([-1]), DataError, "token id -1 is outside the vocabulary"),
        (Request([1], stop=("a", "")), ConfigError, "a stop string is empty, which would end every answer at once"),
        (Request([1], stop=("a",)), ConfigError, "stop strings need a tokenizer"),
    ],
)
def test_what_cannot_be_answered_is_refused(gpt: Build, request_: Request, kind: type[Exception], message: str) -> None:
    generator = Generator(gpt())
    with pytest.raises(kind, match=message):
        generator.generate([Request([1]), request_])
    assert (generator.n_active, generator.n_waiting) == (0, 0)


def test_a_tokenizer_of_another_size_is_refused_or_kept_to(gpt: Build, tokenizer: Tokenizer) -> None:
    with pytest.raises(
        TokenizerMismatch, match=r"the 299 tokens of the model's vocabulary, got 'bpe-300' with 300; use the"
    ):
        Generator(gpt(vocab_size=299), tokenizer=tokenizer)
    padded = gpt(vocab_size=320, tied_head=False)
    with torch.no_grad():
        assert isinstance(padded.head, torch.nn.Linear)
        padded.head.weight[305] = 0.0
        padded.norm.bias.fill_(1.0)
        padded.head.weight[305] += 9.0
    assert alone(padded, [Request([1])])[0].ids == [305] * 31
    (answer,) = Generator(padded, tokenizer=tokenizer).generate([Request([1])])
    assert max(answer.ids) < 300
    assert answer.text == tokenizer.decode(answer.ids)


@pytest.mark.parametrize("name", ["slots", "prefill_chunk"])
def test_sizes_that_mean_nothing_are_refused(gpt: Build, name: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {name} to be at least 1, got 0"):
        Generator(gpt(), **{name: 0})  # type: ignore[arg-type]
