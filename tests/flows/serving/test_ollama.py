"""The official Ollama client, unchanged, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from flows.serving import Served
from gptcore.generation import Generator, Request, Sampling

OPTIONS = {"temperature": 0, "num_predict": 20, "num_ctx": 2048}


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[ollama.Client]:
    with ollama.Client(url) as client:
        yield client


def expected(served: Served, ids: list[int], stop: tuple[str, ...] = ()) -> str:
    request = Request(ids, Sampling(max_new_tokens=20), end_token=served.text.end_token, stop=stop)
    return Generator(served.text.model, tokenizer=served.text.tokenizer, slots=1).generate([request])[0].text


def test_the_model_is_listed_shown_and_running(client: ollama.Client, served: Served) -> None:
    (listed,) = client.list().models
    assert (listed.model, listed.digest, listed.size) == ("keeper:latest", served.digest, served.n_bytes)
    shown = client.show("keeper")
    assert shown.template == "Q: {{ .Prompt }}\nA: "
    assert (shown.modelinfo or {})["gpt2.context_length"] == 4096
    assert shown.capabilities == ["completion"]
    assert shown.details is not None
    assert shown.details.quantization_level == "F32"
    (running,) = client.ps().models
    assert running.context_length == 4096


def test_a_prompt_goes_through_the_template_unless_it_is_raw(client: ollama.Client, served: Served) -> None:
    told = client.generate("keeper", "Who?", system="Be brief.", options=OPTIONS)
    ids = served.text.encode("Be brief.\n\nWho?")
    assert told.response == expected(served, ids, served.text.stops)
    assert (told.done, told.done_reason, told.eval_count, told.prompt_eval_count) == (True, "length", 20, len(ids))
    assert list(told.context or ())[: len(ids)] == ids
    raw = client.generate("keeper:latest", "Who?", raw=True, options=OPTIONS)
    assert raw.response == expected(served, served.text.tokenizer.encode("Who?"))


def test_a_chat_whole_and_streamed(client: ollama.Client, served: Served) -> None:
    messages = [{"role": "user", "content": "Who?"}]
    text = expected(served, served.text.encode("Who?"), served.text.stops)
    whole = client.chat("keeper", messages, options=OPTIONS, logprobs=True, top_logprobs=3)
    assert whole.message.content == text
    assert len(whole.logprobs or ()) == 20
    parts = list(client.chat("keeper", messages, options=OPTIONS, stream=True))
    assert "".join(part.message.content or "" for part in parts) == text
    assert len(parts) > 10
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert (parts[-1].eval_count, parts[-1].done_reason) == (20, "length")


def test_the_context_of_an_answer_is_gone_on_from(client: ollama.Client, served: Served) -> None:
    first = client.generate("keeper", "Who?", options=OPTIONS)
    second = client.generate("keeper", "Why?", context=first.context, options=OPTIONS)
    assert second.response == expected(served, [*(first.context or ()), *served.text.encode("Why?")], served.text.stops)


def test_a_request_that_asks_nothing_says_that_the_model_is_there(client: ollama.Client) -> None:
    assert client.generate("keeper").done_reason == "load"
    assert client.chat("keeper", []).done_reason == "load"


def test_a_long_prompt_is_cut_and_told_or_refused(url: str) -> None:
    asked = {"model": "keeper", "prompt": "ships " * 4000, "options": {"num_predict": 2}, "stream": False}
    answer = httpx.post(f"{url}/api/generate", json=asked, timeout=60)
    told = answer.json()
    assert told["prompt_eval_count"] == 4094
    assert told["prompt_tokens_cut"] == int(answer.headers["X-Prompt-Tokens-Cut"]) > 0
    refused = httpx.post(f"{url}/api/generate", json={**asked, "truncate": False})
    assert refused.status_code == 400
    assert "the model's context holds 4096" in refused.json()["error"]


@pytest.mark.parametrize(
    ("bad", "status", "message"),
    [
        ({"options": {"temperature": -1}}, 400, "expected temperature to be 0 or more, and finite, got -1.0"),
        ({"options": {"top_p": 2}}, 400, "expected top_p to be above 0 and at most 1, got 2.0"),
        ({"options": {"num_predict": 0}}, 400, "expected max_new_tokens to be at least 1, got 0"),
        ({"options": {"mirostat": 2}}, 400, "mirostat is not supported by this server"),
        ({"options": {"tepmerature": 2}}, 400, "options.tepmerature: Extra inputs are not permitted"),
        ({"format": "json"}, 400, "format is not supported by this server"),
        ({"think": True}, 400, '"keeper" does not support thinking'),
        ({"model": "llama3"}, 404, "model 'llama3' not found; expected 'keeper'"),
        ({"context": [1, 999]}, 400, r"token id 999 is outside the vocabulary"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused(
    client: ollama.Client, bad: dict[str, Any], status: int, message: str, stream: bool
) -> None:
    with pytest.raises(ollama.ResponseError, match=message) as caught:
        list(client.generate(**{"model": "keeper", "prompt": "Who?", "stream": stream, **bad}))
    assert caught.value.status_code == status
