"""The official OpenAI client, unchanged, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from flows.serving import Served
from gptcore.generation import Generator, Request, Sampling
from gptcore.text import Turn

openai = pytest.importorskip("openai", reason="the openai client is not installed")
HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who saw the cat?"}]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def expected(served: Served, ids: list[int], *, stop: tuple[str, ...] = (), **sampling: Any) -> str:
    """What the model says, without a server."""
    request = Request(ids, Sampling(**sampling), end_token=served.text.end_token, stop=stop)
    return Generator(served.text.model, tokenizer=served.text.tokenizer, slots=1).generate([request])[0].text


def chat_ids(served: Served) -> list[int]:
    turns = [Turn("system", "Be brief."), Turn("user", "Who saw the cat?")]
    return served.text.encode_chat(turns, room=10_000)[0]


def test_models_are_listed_and_found(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["keeper"]
    assert client.models.retrieve("keeper").max_model_len == 4096
    with pytest.raises(openai.NotFoundError, match="model 'gpt-4o' not found; expected 'keeper'"):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 0.9, "top_p": 0.8, "seed": 7}])
def test_a_chat_is_what_the_model_says_whole_and_streamed(client: Any, served: Served, how: dict[str, Any]) -> None:
    text = expected(served, chat_ids(served), stop=served.text.stops, max_new_tokens=24, **how)
    whole = client.chat.completions.create(model="keeper", messages=HELLO, max_tokens=24, **how)
    assert whole.choices[0].message.content == text
    assert whole.choices[0].finish_reason == "length"
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(chat_ids(served)), 24)
    stream = client.chat.completions.create(
        model="keeper", messages=HELLO, max_tokens=24, stream=True, stream_options={"include_usage": True}, **how
    )
    chunks = list(stream)
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == text
    assert sum(map(bool, pieces)) > 10
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].usage == whole.usage


def test_stop_strings_end_the_answer_and_are_not_in_it(client: Any) -> None:
    def say(**stop: Any) -> Any:
        return client.chat.completions.create(model="keeper", messages=HELLO, max_tokens=40, temperature=0, **stop)

    text = say().choices[0].message.content
    inside = text[11:15]  # most likely not at the borders of tokens
    stopped = say(stop=["never said", inside]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.find(inside)], "stop")


def test_choices_have_seeds_of_their_own_and_probabilities(client: Any, served: Served) -> None:
    answer = client.chat.completions.create(
        model="keeper", messages=HELLO, n=3, seed=5, max_tokens=8, temperature=1.2, logprobs=True, top_logprobs=2
    )
    texts = [choice.message.content for choice in answer.choices]
    ids = chat_ids(served)
    ways = [{"temperature": 1.2, "seed": seed, "max_new_tokens": 8} for seed in (5, 6, 7)]
    assert texts == [expected(served, ids, stop=served.text.stops, **way) for way in ways]
    assert len(set(texts)) == 3
    for choice in answer.choices:
        told = choice.logprobs.content
        assert len(told) == 8
        assert b"".join(bytes(token.bytes) for token in told).decode(errors="replace") == choice.message.content
        assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in told)


def test_completions_continue_the_text_as_it_is(client: Any, served: Served) -> None:
    tokenizer, prompts = served.text.tokenizer, ["The keeper", "Who saw"]
    answer = client.completions.create(model="keeper", prompt=prompts, temperature=0, max_tokens=10, logprobs=1)
    wanted = [expected(served, tokenizer.encode(prompt), max_new_tokens=10) for prompt in prompts]
    assert [choice.text for choice in answer.choices] == wanted
    assert [len(choice.logprobs.token_logprobs) for choice in answer.choices] == [10, 10]
    ids = tokenizer.encode("The keeper")
    streamed = client.completions.create(model="keeper", prompt=ids, temperature=0, max_tokens=10, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == wanted[0]


def test_many_clients_at_once_get_what_each_gets_alone(client: Any, served: Served) -> None:
    def ask(number: int) -> str:
        return str(
            client.completions.create(
                model="keeper", prompt=f"The {number}", seed=number, temperature=1.0, max_tokens=12 + number
            )
            .choices[0]
            .text
        )

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(12)))
    tokenizer = served.text.tokenizer
    assert found == [
        expected(served, tokenizer.encode(f"The {i}"), temperature=1.0, seed=i, max_new_tokens=12 + i)
        for i in range(12)
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"temperature": -1}, "expected temperature to be 0 or more, and finite, got -1.0"),
        ({"top_p": 0}, "expected top_p to be above 0 and at most 1, got 0.0"),
        ({"max_tokens": 0}, "expected max_new_tokens to be at least 1, got 0"),
        ({"n": 0}, "n: Input should be greater than or equal to 1"),
        ({"n": 17}, "expected at most 16 answers at once, got 17"),
        ({"stop": [""]}, "a stop string is empty"),
        ({"seed": 2**70}, "expected seed to fit 64 bits, got .*"),
        ({"top_logprobs": 21}, "top_logprobs: Input should be less than or equal to 20"),
        ({"frequency_penalty": 1.0}, "frequency_penalty is not supported by this server; leave it out"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools is not supported"),
        ({"extra_body": {"tempreature": 1}}, "tempreature: Extra inputs are not permitted"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "system", "content": "x"}]}, "expected at least one message of a user"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.0.role: expected one of"),
    ],
)
def test_values_that_mean_nothing_are_refused_by_name(client: Any, bad: dict[str, Any], message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(**{"model": "keeper", "messages": HELLO, **bad})
    assert caught.value.body["type"] == "invalid_request_error"


def test_another_models_name_is_not_found(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_prompt_over_the_context_is_refused_or_cut_and_told(client: Any) -> None:
    long: list[Any] = [{"role": "user", "content": "ships " * 4000}]
    with pytest.raises(openai.BadRequestError, match=r"the model's context holds 4096 and 1 must be free") as caught:
        client.chat.completions.create(model="keeper", messages=long)
    assert caught.value.code == "context_length_exceeded"
    raw = client.chat.completions.with_raw_response.create(
        model="keeper", messages=long, max_tokens=3, extra_body={"truncate": True}
    )
    answer = raw.parse()
    cut = int(raw.headers["X-Prompt-Tokens-Cut"])
    assert cut > 0
    assert answer.usage.prompt_tokens == 4093
    assert answer.gptworks == {"prompt_tokens_cut": cut}
